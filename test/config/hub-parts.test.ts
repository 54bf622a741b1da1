/** Parts of a pull by themselves: redirects, settings, the lock, errors of the disk, what the user sees. */
import { mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import type { WriteStream } from 'node:tty';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hubFetch, redirectTarget } from '../../src/hub/http.ts';
import { progressBar } from '../../src/hub/index.ts';
import { withLock } from '../../src/hub/lock.ts';
import { fileSystemError } from '../../src/hub/pull.ts';
import { readHub } from '../../src/hub/settings.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'coppice-hub-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

describe('redirects', () => {
  const from = new URL('https://hub.example/a/b');

  it('may go to https anywhere, or stay', () => {
    expect(redirectTarget(from, 'https://cdn.example/x?sig=1').href).toBe('https://cdn.example/x?sig=1');
    expect(redirectTarget(from, '/c').href).toBe('https://hub.example/c');
    expect(redirectTarget(new URL('http://127.0.0.1:1/'), 'http://127.0.0.1:2/').port).toBe('2');
  });

  it.each(['http://cdn.example/x?secret', 'http://127.0.0.1/x', 'file:///etc/passwd', 'data:,x', 'http://'])(
    'may not go to %s',
    (location) => {
      expect(() => redirectTarget(from, location)).toThrow(/^expected https:\/\/hub\.example to redirect to/);
      expect(() => redirectTarget(from, location)).not.toThrow('secret');
    },
  );

  it('end after five', async () => {
    let numRequests = 0;
    const server = createServer((_, response) => {
      numRequests++;
      response.writeHead(302, { location: '/again' }).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const subject = { repo: 'a/b', revision: 'main', file: null };
    const reply = hubFetch({ endpoint, token: null }, new URL(endpoint), { subject });
    await expect(reply).rejects.toThrow('expected at most 5 redirects');
    expect(numRequests).toBe(6);
    server.close();
  });
});

describe('settings', () => {
  it('take options before environment before the default', async () => {
    const env = { HF_ENDPOINT: 'https://mirror.example/hf/', HF_TOKEN: '', HF_HOME: folder };
    expect(await readHub({ env })).toEqual({ endpoint: 'https://mirror.example/hf', token: null });
    const endpoint = 'http://10.0.0.1:8080';
    expect((await readHub({ env, endpoint })).endpoint).toBe(endpoint);
    expect((await readHub({ env: { HF_HOME: folder } })).endpoint).toBe('https://huggingface.co');
  });

  it('find the token file by each of its variables', async () => {
    writeFileSync(join(folder, 'token'), 'hf_file\n');
    expect((await readHub({ env: { HF_HOME: folder } })).token).toBe('hf_file');
    expect((await readHub({ env: { HF_TOKEN_PATH: join(folder, 'token') } })).token).toBe('hf_file');
    expect((await readHub({ env: { XDG_CACHE_HOME: folder } })).token).toBeNull();
    await expect(readHub({ env: { HF_TOKEN_PATH: folder } })).rejects.toThrow(
      'cannot read the hub token file',
    );
  });

  it.each(['ftp://hub.example', 'hub.example', 'https://hub.example/?a=1', 'https://me:hunter2@hub.example'])(
    'refuse the endpoint %s',
    async (endpoint) => {
      const refusal = readHub({ endpoint, env: { HF_HOME: folder } });
      await expect(refusal).rejects.toThrow('expected HF_ENDPOINT');
      await expect(refusal).rejects.not.toThrow('hunter2');
    },
  );
});

describe('the lock', () => {
  const options = (staleMs = 150) => ({
    signal: new AbortController().signal,
    onWait: () => undefined,
    staleMs,
  });

  it('lets one work at a time, and the next when the first failed', async () => {
    const path = join(folder, '.lock');
    let inside = 0;
    const work = async () => {
      expect(++inside).toBe(1);
      await sleep(30);
      inside--;
      throw new Error('failed');
    };
    const runs = await Promise.allSettled([1, 2, 3].map(() => withLock(path, options(), work)));
    expect(runs.map((run) => run.status)).toEqual(['rejected', 'rejected', 'rejected']);
    expect(() => readFileSync(path)).toThrow('ENOENT');
  });

  it('is kept as long as its holder lives, and taken from a dead one whatever its clock', async () => {
    const path = join(folder, '.lock');
    const order: string[] = [];
    const long = withLock(path, options(), async () => {
      await sleep(450);
      order.push('first');
    });
    await sleep(20);
    await withLock(path, options(), () => Promise.resolve(order.push('second')));
    await long;
    expect(order).toEqual(['first', 'second']);
    for (const year of [2001, 2199]) {
      writeFileSync(path, 'dead');
      utimesSync(path, new Date(year, 1), new Date(year, 1));
      expect(await withLock(path, options(), () => Promise.resolve(year))).toBe(year);
    }
  });

  it('stops the work of a holder that lost it', async () => {
    const path = join(folder, '.lock');
    const work = async (signal: AbortSignal) => {
      writeFileSync(path, 'somebody else');
      await sleep(5000, undefined, { signal });
    };
    await expect(withLock(path, options(), work)).rejects.toThrow('lost the lock');
    expect(readFileSync(path, 'utf8')).toBe('somebody else');
  });

  it('is not waited for after an abort', async () => {
    const path = join(folder, '.lock');
    writeFileSync(path, 'busy');
    const signal = AbortSignal.timeout(50);
    const waiting = withLock(path, { ...options(60_000), signal }, () => Promise.resolve());
    await expect(waiting).rejects.toThrow();
    expect(readFileSync(path, 'utf8')).toBe('busy');
  });
});

describe('errors of the disk', () => {
  it('are one line each; others stay what they are', () => {
    const full = Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC', syscall: 'write' });
    expect(fileSystemError(full, '/cache')).toMatchObject({
      errorCode: 'startup',
      message: 'disk full: no room for the model in /cache',
    });
    const bug = new TypeError('x is not a function');
    expect(fileSystemError(bug, '/cache')).toBe(bug);
  });
});

describe('progressBar', () => {
  function show(isTTY: boolean): { text: () => string; stream: WriteStream } {
    const stream = Object.assign(new PassThrough(), {
      isTTY,
      columns: 80,
      cursorTo: () => true,
      clearLine: () => true,
    });
    const text = () => String((stream as unknown as PassThrough).read() ?? '');
    return { text, stream: stream as unknown as WriteStream };
  }
  const step = (file: string, receivedBytes: number, totalBytes: number, before: number) => ({
    file,
    receivedBytes,
    totalBytes,
    overallReceivedBytes: before + receivedBytes,
    overallTotalBytes: 4096,
  });

  it('writes few plain lines where there is no terminal', () => {
    const { text, stream } = show(false);
    const display = progressBar(stream);
    display.onProgress(step('config.json', 96, 96, 0));
    display.onNotice('waiting');
    for (let bytes = 40; bytes <= 4000; bytes += 40)
      display.onProgress(step('model.safetensors', bytes, 4000, 96));
    display.stop();
    const lines = text().trimEnd().split('\n');
    expect(lines[0]).toBe('config.json: 96 B of 96 B (2% of all)');
    expect(lines[1]).toBe('waiting');
    expect(lines.at(-1)).toBe('model.safetensors: 3.9 KiB of 3.9 KiB (100% of all)');
    expect(lines).toHaveLength(12);
    expect(text()).not.toContain('\u001b');
  });

  it('draws a bar on a terminal', () => {
    const { text, stream } = show(true);
    const display = progressBar(stream);
    display.onProgress(step('model.safetensors', 2048, 4000, 0));
    display.onNotice('waiting');
    display.stop();
    const shown = text();
    expect(shown).toContain('50% of 4.0 KiB, model.safetensors');
    expect(shown).toContain('waiting');
  });
});
