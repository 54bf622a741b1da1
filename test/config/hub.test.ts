/** Pulling a model from a hub on loopback: whole, resumed, verified, refused. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { pullModel, resolveModel } from '../../src/hub/index.ts';
import type { PullOptions, PullProgress } from '../../src/hub/index.ts';
import { readTree, REPO, startHub } from './hub-server.ts';
import type { TestHub } from './hub-server.ts';

const SOURCE = resolve(import.meta.dirname, '../fixtures/models/stories260K');
const WEIGHTS = 'model.safetensors';
const WANTED = ['config.json', 'generation_config.json', WEIGHTS, 'tokenizer.json', 'tokenizer_config.json'];

let hub: TestHub;
let cacheDir: string;

beforeEach(async () => {
  hub = await startHub(readTree(SOURCE));
  cacheDir = mkdtempSync(join(tmpdir(), 'coppice-hub-'));
});
afterEach(async () => {
  await hub.close();
  rmSync(cacheDir, { recursive: true });
});

/** `HF_HOME` points away from the developer's own token. */
function pull(options: Partial<PullOptions> = {}, id = REPO): Promise<string> {
  const env = { HF_ENDPOINT: hub.endpoint, HF_HOME: join(cacheDir, 'no-home'), ...options.env };
  return pullModel(id, { cacheDir, retries: 0, retryDelayMs: 1, ...options, env });
}

async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => expect.unreachable('expected a refusal'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AppError);
  expect((error as AppError).errorCode).toBe('startup');
  expect((error as AppError).message).not.toContain('\n');
  return (error as AppError).message;
}

const repoDir = (): string => join(cacheDir, 'models', 'karpathy--stories260K');
const bytesServed = (): number => [...hub.served.values()].reduce((sum, bytes) => sum + bytes, 0);
const leftovers = (): string[] =>
  existsSync(repoDir())
    ? readdirSync(repoDir()).filter((name) => name !== 'refs' && !/^[0-9a-f]{40}$/.test(name))
    : [];

/** Same paths and same bytes as the hub, for the paths given and no others. */
function expectPulled(folder: string, paths: string[] = WANTED): void {
  const tree = readTree(folder);
  expect([...tree.keys()].sort()).toEqual([...paths].sort());
  for (const path of paths) expect(tree.get(path)!.equals(hub.files.get(path)!), path).toBe(true);
}

describe('a whole pull', () => {
  it('brings the needed files, byte for byte, and nothing else', async () => {
    for (const path of ['pytorch_model.bin', 'model.gguf', 'duo-attention/weights.pt', 'README.md']) {
      hub.files.set(path, Buffer.from('unwanted'));
    }
    hub.files.set('chat_template.jinja', Buffer.from('{{ messages }}'));
    hub.files.set('duo-attention/config.json', Buffer.from('{"sink_size": 4}'));
    const folder = await pull();
    expect(folder).toBe(join(repoDir(), hub.commit));
    expectPulled(folder, [...WANTED, 'chat_template.jinja', 'duo-attention/config.json']);
    expect(leftovers()).toEqual([]);
  });

  it('takes the shards that the index names', async () => {
    const weights = hub.files.get(WEIGHTS)!;
    const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
    hub.files.delete(WEIGHTS);
    hub.files.set(shards[0]!, weights.subarray(0, 600_000));
    hub.files.set(shards[1]!, weights.subarray(600_000));
    hub.files.set('consolidated.safetensors', weights);
    hub.lfs = new Set(shards);
    const index = { weight_map: { a: shards[0], b: shards[1], c: shards[0] } };
    hub.files.set('model.safetensors.index.json', Buffer.from(JSON.stringify(index)));
    const side = WANTED.filter((path) => path !== WEIGHTS);
    expectPulled(await pull(), [...side, ...shards, 'model.safetensors.index.json']);
  });

  it('reads every page of the listing without following its host', async () => {
    hub.pageSize = 2;
    expectPulled(await pull());
  });

  it('reports progress that ends at the whole', async () => {
    const steps: PullProgress[] = [];
    await pull({ onProgress: (step) => steps.push(step) });
    const total = WANTED.reduce((sum, path) => sum + hub.files.get(path)!.length, 0);
    const overall = steps.map((step) => step.overallReceivedBytes);
    expect(steps.every((step) => step.overallTotalBytes === total)).toBe(true);
    expect(overall).toEqual([...overall].sort((a, b) => a - b));
    expect(overall.at(-1)).toBe(total);
    expect(overall.filter((bytes) => bytes === total)).toHaveLength(1);
    expect(new Set(steps.map((step) => step.file))).toEqual(new Set(WANTED));
  });
});

describe('a second pull', () => {
  it('downloads nothing without changes, and asks nothing for a commit', async () => {
    const folder = await pull();
    const before = bytesServed();
    expect(await pull()).toBe(folder);
    expect(bytesServed()).toBe(before);
    hub.seen = [];
    expect(await pull({}, `${REPO}@${hub.commit}`)).toBe(folder);
    expect(hub.seen).toEqual([]);
  });

  it('follows a revision that moved and downloads only what changed', async () => {
    const old = await pull();
    hub.commit = 'b'.repeat(40);
    hub.files.set('generation_config.json', Buffer.from('{}'));
    hub.served.clear();
    const folder = await pull();
    expect(folder).toBe(join(repoDir(), hub.commit));
    expectPulled(folder);
    expect([...hub.served.keys()]).toEqual(['generation_config.json']);
    expect(await resolveModel(REPO, { cacheDir })).toBe(folder);
    expect(await resolveModel(`${REPO}@${'a'.repeat(40)}`, { cacheDir })).toBe(old);
  });

  it('does not reuse an older file that was damaged', async () => {
    const old = await pull();
    const damaged = Buffer.from(hub.files.get(WEIGHTS)!);
    damaged[500_000]! ^= 1;
    writeFileSync(join(old, WEIGHTS), damaged);
    hub.commit = 'b'.repeat(40);
    expectPulled(await pull());
  });
});

describe('a broken download', () => {
  const CUT = 400_000;

  it('goes on where it stopped', async () => {
    hub.cutAfter.set(WEIGHTS, CUT);
    expect(await failure(pull())).toMatch(/^cannot reach http:\/\/127\.0\.0\.1/);
    expect(readdirSync(repoDir())).not.toContain(hub.commit);
    await expect(resolveModel(REPO, { cacheDir })).rejects.toThrow('coppice pull');
    hub.seen = [];
    expectPulled(await pull());
    const ranges = hub.seen.map((request) => request.range).filter((range) => range !== null);
    expect(new Set(ranges).size).toBe(1);
    expect(hub.served.get(WEIGHTS)).toBe(hub.files.get(WEIGHTS)!.length);
    expect(hub.served.get('tokenizer.json')).toBe(hub.files.get('tokenizer.json')!.length);
    expect(leftovers()).toEqual([]);
  });

  it('starts anew when the server ignores ranges', async () => {
    hub.cutAfter.set(WEIGHTS, CUT);
    await failure(pull());
    hub.ignoreRange = true;
    expectPulled(await pull());
    expect(hub.served.get(WEIGHTS)).toBe(hub.files.get(WEIGHTS)!.length + CUT);
  });

  it('is taken up again within one pull, and says so', async () => {
    hub.cutAfter.set(WEIGHTS, CUT);
    hub.failures = [503];
    const notices: string[] = [];
    expectPulled(await pull({ retries: 1, onNotice: (line) => notices.push(line) }));
    expect(notices).toHaveLength(2);
    expect(notices.every((line) => line.endsWith('trying again'))).toBe(true);
    expect(hub.served.get(WEIGHTS)).toBe(hub.files.get(WEIGHTS)!.length);
  });

  it('gives up after the retries', async () => {
    hub.failures = [503, 502, 500];
    expect(await failure(pull({ retries: 2 }))).toContain('answered 500');
    expect(hub.failures).toEqual([]);
  });

  it('ends at once when aborted, with the reason', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const onProgress = ({ file, receivedBytes }: PullProgress) => {
      if (file === WEIGHTS && receivedBytes > 0) controller.abort(reason);
    };
    await expect(pull({ signal: controller.signal, onProgress })).rejects.toBe(reason);
    expect(readdirSync(repoDir())).not.toContain(hub.commit);
    expectPulled(await pull());
  });
});

describe('verification', () => {
  it.each([WEIGHTS, 'tokenizer.json'])('refuses and deletes %s with a wrong checksum', async (path) => {
    const wrong = Buffer.from(hub.files.get(path)!);
    wrong[wrong.length >> 1]! ^= 1;
    hub.tampered.set(path, wrong);
    expect(await failure(pull())).toMatch(new RegExp(`${path} of ${REPO}.*checksum`));
    expect(readdirSync(repoDir())).not.toContain(hub.commit);
    expect(readdirSync(join(repoDir(), '.incoming')).filter((name) => name.endsWith('.part'))).toEqual([]);
    hub.tampered.clear();
    expectPulled(await pull());
  });

  it('takes checksums from the headers when the listing has none', async () => {
    hub.bareListing = true;
    expectPulled(await pull());
    hub.commit = 'b'.repeat(40);
    hub.tampered.set(WEIGHTS, Buffer.alloc(hub.files.get(WEIGHTS)!.length));
    rmSync(repoDir(), { recursive: true });
    expect(await failure(pull())).toContain('checksum');
    // The redirect to the storage is not followed only to ask: its addresses are signed for GET.
    expect(hub.seen.filter((request) => request.method === 'HEAD' && request.host === hub.storage)).toEqual(
      [],
    );
  });

  it('refuses weights of which there is no checksum at all', async () => {
    hub.bareListing = true;
    hub.lfs.clear();
    hub.plainEtags = true;
    expect(await failure(pull())).toContain('to give a checksum');
  });

  it('stops a body longer than listed', async () => {
    hub.tampered.set('config.json', Buffer.alloc(1_000_000, ' '));
    expect(await failure(pull())).toMatch(/config\.json .* to have 628 bytes, got more/);
  });
});

describe('who may read', () => {
  const token = 'hf_secretToken123';

  it('names the variable to set when there is no token, and works with one', async () => {
    hub.token = token;
    expect(await failure(pull())).toMatch(/gated.*HF_TOKEN/);
    expectPulled(await pull({ env: { HF_TOKEN: token } }));
  });

  it.each([
    ['HUGGING_FACE_HUB_TOKEN', () => ({ env: { HUGGING_FACE_HUB_TOKEN: token } })],
    ['an option', () => ({ token, env: { HF_TOKEN: 'hf_other' } })],
    [
      'the token file',
      () => {
        writeFileSync(join(cacheDir, 'token'), `${token}\n`);
        return { env: { HF_HOME: cacheDir } };
      },
    ],
  ])('takes the token from %s', async (_, options) => {
    hub.token = token;
    expectPulled(await pull(options()));
  });

  it('never shows the token to another origin, nor in a message', async () => {
    hub.token = token;
    await pull({ token });
    const at = (origin: string) => hub.seen.filter((request) => request.host === origin);
    expect(at(hub.storage).length).toBeGreaterThan(0);
    expect(at(hub.storage).map((request) => request.authorization)).not.toContain(`Bearer ${token}`);
    expect(at(hub.endpoint).every((request) => request.authorization === `Bearer ${token}`)).toBe(true);
    hub.token = 'hf_changed';
    expect(await failure(pull({ token }))).not.toContain(token);
    expect(await failure(pull({ token: `${token}\nx-evil: 1` }))).not.toContain(token);
  });
});

describe('refusals', () => {
  it('says what is missing', async () => {
    expect(await failure(pull({}, 'nobody/nothing'))).toContain('no nobody/nothing (revision main) at');
    expect(await failure(pull({ revision: 'v9' }))).toContain(`no revision v9 of ${REPO}`);
    hub.files.delete('config.json');
    expect(await failure(pull())).toContain('config.json');
    hub.files.set('config.json', Buffer.from('{}'));
    hub.files.delete(WEIGHTS);
    expect(await failure(pull())).toContain('model.safetensors or model.safetensors.index.json');
  });

  it('says that the hub cannot be reached', async () => {
    const closed = await startHub(new Map());
    await closed.close();
    expect(await failure(pull({ endpoint: closed.endpoint }))).toContain(`cannot reach ${closed.endpoint}: `);
  });

  it.each(['../evil', 'a/b/c', 'one', 'a/..', '-a/b', 'a--b/c', 'a/b@', 'a/b@x/../y', 'a/b c', 'C:\\x', ''])(
    'refuses the id %j before asking anybody',
    async (id) => {
      expect(await failure(pull({}, id))).toContain('expected a hub id');
      expect(hub.seen).toEqual([]);
    },
  );

  it.each([
    '../../evil.json',
    'duo-attention/../../evil.json',
    '/etc/evil.json',
    'duo-attention\\..\\evil.json',
    'C:/evil.json',
    'duo-attention//evil.json',
    'duo-attention/a\u001b[2J.json',
    'duo-attention/con:stream.json',
    'duo-attention/dot./x.json',
  ])('refuses the listed name %j', async (path) => {
    hub.extraEntries = [{ type: 'file', path, size: 2, oid: '0'.repeat(40) }];
    expect(await failure(pull())).toContain('expected file names');
    expect(bytesServed()).toBe(0);
  });

  it('refuses an index that names files outside', async () => {
    hub.files.delete(WEIGHTS);
    for (const path of ['../../x.safetensors', 'absent.safetensors', 'config.json']) {
      const index = JSON.stringify({ weight_map: { a: path } });
      hub.files.set('model.safetensors.index.json', Buffer.from(index));
      expect(await failure(pull())).toContain('expected');
    }
    expect(readdirSync(repoDir())).not.toContain(hub.commit);
  });

  it('refuses an index too large to parse', async () => {
    hub.files.delete(WEIGHTS);
    hub.extraEntries = [
      { type: 'file', path: 'model.safetensors.index.json', size: 2 ** 30, oid: '0'.repeat(40) },
    ];
    expect(await failure(pull())).toContain('of at most 67108864 bytes, got 1073741824');
    expect(bytesServed()).toBe(0);
  });

  it('refuses a listing that is no listing', async () => {
    hub.extraEntries = [{ type: 'file', path: 'config.json', size: -1 }];
    expect(await failure(pull())).toMatch(/expected a hub's reply from .*size/);
  });

  it('refuses what the disk has no room for, before downloading', async () => {
    const lfs = { oid: '0'.repeat(64), size: 2 ** 52 };
    hub.extraEntries = [{ type: 'file', path: 'duo-attention/huge.json', size: 134, lfs }];
    expect(await failure(pull())).toMatch(/GiB free in .*got/);
    expect(bytesServed()).toBe(0);
  });

  it('does not write through a link planted for a part file', async () => {
    hub.cutAfter.set(WEIGHTS, 1000);
    await failure(pull());
    const incoming = join(repoDir(), '.incoming');
    const part = readdirSync(incoming).find((name) => name.endsWith('.part'))!;
    const victim = join(cacheDir, 'victim');
    rmSync(join(incoming, part));
    writeFileSync(victim, 'precious');
    symlinkSync(victim, join(incoming, part));
    await failure(pull());
    expect(readTree(cacheDir).get('victim')!.toString()).toBe('precious');
  });

  it('says when the cache folder cannot be written', async () => {
    writeFileSync(join(cacheDir, 'file'), '');
    expect(await failure(pull({ cacheDir: join(cacheDir, 'file') }))).toContain(
      'cannot write to the cache folder',
    );
  });
});

describe('two pulls at once', () => {
  it('download once and end in the same whole folder', async () => {
    const notices: string[] = [];
    const folders = await Promise.all([1, 2, 3].map(() => pull({ onNotice: (line) => notices.push(line) })));
    expect(new Set(folders).size).toBe(1);
    expectPulled(folders[0]!);
    expect(leftovers()).toEqual([]);
    expect(hub.served.get(WEIGHTS)).toBe(hub.files.get(WEIGHTS)!.length);
    expect(notices).toEqual([`waiting for another pull of ${REPO}`, `waiting for another pull of ${REPO}`]);
  });
});

describe('resolveModel', () => {
  it('finds folders first, then what was pulled, by id, revision and commit', async () => {
    expect(await resolveModel(SOURCE, { cacheDir })).toBe(SOURCE);
    const folder = await pull({ revision: 'refs/pr/1' });
    hub.seen = [];
    expect(await resolveModel(`${REPO}@refs/pr/1`, { cacheDir })).toBe(folder);
    expect(await resolveModel(REPO, { cacheDir, revision: 'refs/pr/1' })).toBe(folder);
    expect(await resolveModel(REPO, { cacheDir, revision: hub.commit })).toBe(folder);
    expect(await failure(resolveModel(REPO, { cacheDir }))).toBe(
      `model folder ${REPO} not found; if it is a hub id, run: coppice pull ${REPO}`,
    );
    expect(hub.seen).toEqual([]);
  });

  it('refuses what is neither', async () => {
    expect(await failure(resolveModel('./missing', { cacheDir }))).toBe('model folder ./missing not found');
    expect(await failure(resolveModel(`${REPO}@v1`, { cacheDir, revision: 'v2' }))).toContain('v1 and v2');
    // A record that points to a folder which is gone, or holds no commit, is no model.
    mkdirSync(join(repoDir(), 'refs'), { recursive: true });
    for (const text of ['../../..', 'c'.repeat(40)]) {
      writeFileSync(join(repoDir(), 'refs', 'main'), text);
      expect(await failure(resolveModel(REPO, { cacheDir }))).toContain('not found');
    }
  });
});
