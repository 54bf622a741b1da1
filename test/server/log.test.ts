/** The log: one line a request, no prompt text unless asked for, and nothing from outside can forge a line. */
import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { createLogger } from '../../src/log.ts';
import { createTestServer } from './support/app.ts';
import { ScriptedEngine, saying } from './support/scripted-engine.ts';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'my secret' }];

test.each([false, true])('one line a request with its sizes, stream: %s', async (stream) => {
  const server = createTestServer(new ScriptedEngine(saying([300, 301])));
  const response = await server.post(CHAT, { messages, n: 2, stream }, { 'x-request-id': 'mine' });
  await response.text();
  const [line, ...others] = server.log();
  expect(others).toEqual([]);
  expect(line).toMatchObject({
    method: 'POST',
    path: CHAT,
    status: 200,
    model: 'coppice-recall',
    policy: 'none',
    tokensIn: 12,
    tokensOut: 4,
    tokensCached: 0,
    ttftMs: 25,
    finish: 'stop,stop',
    requestId: 'mine',
  });
  expect(line?.ms).toBeGreaterThan(0);
});

test('no prompt or completion text, unless log.prompts', async () => {
  for (const prompts of ['false', 'true']) {
    const server = createTestServer(new ScriptedEngine(saying([300, 301])), { 'log.prompts': prompts });
    await server.post(CHAT, { messages });
    await server.post(CHAT, { messages: [{ role: 'my secret', content: 'x' }] });
    const text = JSON.stringify(server.log());
    expect(text.includes('my secret')).toBe(prompts === 'true');
    expect(text.includes('"completion":"at in"')).toBe(prompts === 'true');
  }
});

test('a request for no route has its line, too', async () => {
  const server = createTestServer(new ScriptedEngine(saying([300])));
  await server.app.request('/nowhere');
  expect(server.log()).toMatchObject([{ path: '/nowhere', status: 404, error: 'not_found' }]);
});

test('log.level', async () => {
  const server = createTestServer(new ScriptedEngine(saying([300])), { 'log.level': 'warn' });
  await server.post(CHAT, { messages });
  expect(server.log()).toEqual([]);
});

/** Line breaks, escapes in seven and eight bits, separators of lines that are none to `split`, turned text. */
const HOSTILE =
  'a\nINFO forged\u001b[2K\r\u001b]0;x\u0007\u009b2J\u0085\u2028\u2029\u202eb\u007f\u0000"}\n{"level":50}';

test.each([false, true])('text from outside stays on its line, on a terminal: %s', async (isTTY) => {
  const stream = Object.assign(new PassThrough(), { isTTY });
  const logger = createLogger({ level: 'info', stream });
  const error = new Error(HOSTILE, { cause: new Error(HOSTILE) });
  error.stack = `Error: ${HOSTILE}\n    at here`;
  logger.info({ path: HOSTILE, deep: { [HOSTILE]: [HOSTILE] }, [HOSTILE]: 1 }, 'request');
  logger.error({ err: error }, 'internal error');
  await new Promise(setImmediate);
  const text = String(stream.read());
  const lines = text.trimEnd().split('\n');
  // A stack goes on in indented lines on a terminal.
  expect(lines.filter((line) => !isTTY || /^\S/.test(line))).toHaveLength(2);
  expect(text).toContain('forged');
  expect(text).not.toMatch(/[\u0080-\u009f\u2028-\u202e]/);
  // eslint-disable-next-line no-control-regex -- colours of our own are the only escapes that may stand there
  expect(text.replaceAll(/\u001b\[\d+m/g, '')).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f]/);
});
