/** Image URLs: what is refused before a connection, and what a host may not lead to. */
import type { LookupAddress } from 'node:dns';
import type { RequestListener } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../../src/config.ts';
import { AppError } from '../../../src/errors.ts';
import { isPublicAddress } from '../../../src/server/images/addresses.ts';
import type { FetchRules } from '../../../src/server/images/fetch-image.ts';
import { ImageSource } from '../../../src/server/images/image-source.ts';
import { PNG, startImageHost } from './support.ts';
import type { ImageHost } from './support.ts';

const PARAM = 'messages[0].content[1].image_url.url';
const LIMIT_BYTES = 1000;

function source(allowedHosts: readonly string[] = [], overrides: Partial<FetchRules> = {}): ImageSource {
  const flags = {
    'limits.image_bytes': String(LIMIT_BYTES),
    ...(allowedHosts.length > 0 && { 'images.allowed_hosts': allowedHosts.join(',') }),
  };
  return new ImageSource(loadConfig({ flags }), overrides);
}

function refusal(run: () => unknown): AppError {
  try {
    run();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error('expected a refusal');
}

async function rejection(run: Promise<unknown>): Promise<AppError> {
  const error: unknown = await run.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AppError);
  return error as AppError;
}

const dataUrl = (bytes: Buffer, type = 'image/png') => `data:${type};base64,${bytes.toString('base64')}`;

describe('data: URLs', () => {
  test.each([
    ['png', PNG],
    ['jpeg', Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 0])],
    ['gif', Buffer.from('GIF89a..')],
    ['webp', Buffer.from('RIFF\0\0\0\0WEBPVP8 ', 'latin1')],
  ])('%s is read', async (type, bytes) => {
    const url = dataUrl(bytes, `image/${type}`);
    source().check(url, PARAM);
    const image = await source().read(url, PARAM);
    expect({ type: image.type, bytes: Buffer.from(image.bytes) }).toEqual({ type, bytes });
  });

  test.each([
    ['another type', dataUrl(PNG, 'image/svg+xml'), 'unsupported_value'],
    ['text', 'data:text/html;base64,PGI+', 'unsupported_value'],
    ['no base64', 'data:image/png,%89PNG', 'unsupported_value'],
    ['no type', 'data:;base64,AAAA', 'unsupported_value'],
    ['parameters', 'data:image/png;charset=utf-8;base64,AAAA', 'unsupported_value'],
    ['no comma', 'data:image/png;base64', 'unsupported_value'],
    ['a far comma', `data:image/png;base64${' '.repeat(200)},AAAA`, 'unsupported_value'],
    ['nothing', 'data:image/png;base64,', null],
    ['a line break', `${dataUrl(PNG).slice(0, 60)}\n${dataUrl(PNG).slice(60)}`, null],
    ['no padding', dataUrl(PNG).replace(/=+$/, ''), null],
    ['URL-safe letters', `data:image/png;base64,${PNG.toString('base64url')}`, null],
    ['padding inside', 'data:image/png;base64,iVBO====Rw0K', null],
    ['stray bits', `${dataUrl(Buffer.concat([PNG, Buffer.from([1])])).slice(0, -3)}B==`, null],
    ['other bytes than it says', dataUrl(PNG, 'image/jpeg'), null],
    ['no image', dataUrl(Buffer.from('<svg></svg>')), null],
    ['too many bytes', dataUrl(Buffer.concat([PNG, Buffer.alloc(LIMIT_BYTES - PNG.length + 1)])), null],
  ])('%s is refused', (_, url, code) => {
    expect(
      refusal(() => {
        source().check(url, PARAM);
      }).toBody(),
    ).toMatchObject({ param: PARAM, code });
  });

  test('as many bytes as allowed', () => {
    source().check(dataUrl(Buffer.concat([PNG, Buffer.alloc(LIMIT_BYTES - PNG.length)])), PARAM);
  });
});

describe('remote URLs before a connection', () => {
  const allowed = [
    'pics.example',
    'other.example:8443',
    '10.1.2.3',
    '127.0.0.1',
    '[::1]',
    'xn--bcher-kva.example',
  ];
  const check = (url: string) => {
    source(allowed).check(url, PARAM);
  };

  test.each([
    'https://pics.example/a.png',
    'http://pics.example/a.png',
    'HTTPS://PICS.EXAMPLE:443/a.png?b=c#d',
    'https://other.example:8443/',
    'https://bücher.example/',
  ])('%s passes', (url) => {
    check(url);
  });

  test.each([
    'file:///etc/passwd',
    'ftp://pics.example/a.png',
    'gopher://pics.example/',
    'javascript:alert(1)',
    'blob:https://pics.example/1',
    'ws://pics.example/',
    'https://example.org/a.png',
    'https://pics.example:8443/',
    'https://other.example/',
    'https://sub.pics.example/',
    'https://pics.example.evil.org/',
    'https://pics.example./',
    'https://pics.example@evil.org/',
    'https://evil.org\\@pics.example/',
    'https://evil.org#@pics.example/',
    'https://user@pics.example/',
    'https://user:secret@pics.example/',
    'http://127.0.0.1/',
    'http://2130706433/',
    'http://0x7f000001/',
    'http://0177.0.0.1/',
    'http://127.1/',
    'http://①②⑦.0.0.1/',
    'http://10.1.2.3/',
    'http://[::1]/',
    'http://[0:0:0:0:0:0:0:1]/',
    'http://[::ffff:127.0.0.1]/',
  ])('%s is refused', (url) => {
    const error = refusal(() => {
      check(url);
    });
    expect(error.toBody()).toMatchObject({ param: PARAM, code: 'unsupported_value' });
    expect(error.message).not.toContain('secret');
  });

  test.each([
    '',
    'pics.example/a.png',
    '/etc/passwd',
    'https://',
    'http://[fe80::1%25eth0]/',
    `https://pics.example/${'a'.repeat(9000)}`,
  ])('%.40s is no URL', (url) => {
    expect(
      refusal(() => {
        check(url);
      }).toBody(),
    ).toMatchObject({ param: PARAM, code: null });
  });

  test('no host is allowed unless the configuration says so', () => {
    expect(
      refusal(() => {
        source().check('https://pics.example/', PARAM);
      }).message,
    ).toMatch(/allowed_hosts/);
  });
});

describe('fetching', () => {
  const hosts: ImageHost[] = [];
  afterEach(async () => {
    for (const host of hosts.splice(0)) await host.close();
  });
  async function start(handle: RequestListener): Promise<ImageHost> {
    const host = await startImageHost(handle);
    hosts.push(host);
    return host;
  }
  const sendPng: RequestListener = (_, outgoing) => outgoing.setHeader('content-type', 'image/png').end(PNG);
  /** Names lead to a host of the test's, whose one address passes for a public one. */
  function rules(port: number, overrides: Partial<FetchRules> = {}): Partial<FetchRules> {
    return {
      allowedHosts: [`pics.example:${port}`],
      isPublic: (address) => address === '127.0.0.1' || isPublicAddress(address),
      resolve: () => Promise.resolve([{ address: '127.0.0.1', family: 4 }]),
      ...overrides,
    };
  }

  test('an image of an allowed host', async () => {
    const host = await start((incoming, outgoing) => {
      expect(incoming.headers).toMatchObject({
        host: `pics.example:${host.port}`,
        'accept-encoding': 'identity',
      });
      expect(incoming.headers).not.toHaveProperty('authorization');
      sendPng(incoming, outgoing);
    });
    const image = await source([], rules(host.port)).read(`http://pics.example:${host.port}/a?b`, PARAM);
    expect({ ...image, bytes: Buffer.from(image.bytes) }).toEqual({ type: 'png', bytes: PNG });
    expect(host.asked).toEqual(['/a?b']);
  });

  test.each<[string, LookupAddress[]]>([
    ['loopback', [{ address: '127.0.0.1', family: 4 }]],
    ['mapped loopback', [{ address: '::ffff:127.0.0.1', family: 6 }]],
    ['link-local with a zone', [{ address: 'fe80::1%lo', family: 6 }]],
    ['metadata of clouds', [{ address: '169.254.169.254', family: 4 }]],
    [
      'one private among public ones',
      [
        { address: '8.8.8.8', family: 4 },
        { address: '10.0.0.1', family: 4 },
      ],
    ],
    ['nothing', []],
  ])('a name that leads to %s is not connected to', async (_, addresses) => {
    const host = await start(sendPng);
    const overrides = rules(host.port, {
      isPublic: isPublicAddress,
      resolve: () => Promise.resolve(addresses),
    });
    const error = await rejection(source([], overrides).read(`http://pics.example:${host.port}/`, PARAM));
    expect(error.toBody()).toMatchObject({ param: PARAM, code: null });
    expect(error.message).toMatch(/public address/);
    expect(error.message).not.toMatch(/\d+\.\d+\.\d+/);
    expect(host.asked).toEqual([]);
  });

  test("the system's own names of loopback are not connected to", async () => {
    const host = await start(sendPng);
    const own = source([`localhost:${host.port}`]);
    const error = await rejection(own.read(`http://localhost:${host.port}/`, PARAM));
    expect(error.message).toMatch(/public address/);
    expect(host.asked).toEqual([]);
  });

  test('a name is looked up once: a second answer cannot lead elsewhere', async () => {
    const host = await start(sendPng);
    let numLookups = 0;
    const resolve = () => {
      numLookups++;
      return Promise.resolve([{ address: numLookups === 1 ? '127.0.0.1' : '127.0.0.2', family: 4 }]);
    };
    await source([], rules(host.port, { resolve })).read(`http://pics.example:${host.port}/`, PARAM);
    expect(numLookups).toBe(1);
  });

  const redirects: Record<string, (port: number) => string> = {
    'a private address': () => 'http://127.0.0.2/',
    'IPv6 loopback': () => 'http://[::1]/',
    'another host': () => 'http://elsewhere.example/',
    'another port': () => 'http://pics.example/',
    'a file': () => 'file:///etc/passwd',
    'inline data': () => 'data:image/png;base64,AAAA',
    credentials: (port) => `http://a:b@pics.example:${port}/`,
    'what is no URL': () => 'http://[',
  };
  test.each(Object.keys(redirects))('a redirect to %s is refused', async (kind) => {
    const host = await start((_, outgoing) => {
      outgoing.writeHead(302, { location: redirects[kind]?.(host.port) ?? '' }).end();
    });
    const error = await rejection(
      source([], rules(host.port)).read(`http://pics.example:${host.port}/`, PARAM),
    );
    expect(error.status).toBe(400);
    expect(host.asked).toHaveLength(1);
  });

  test('a redirect to an allowed name that leads inside is refused', async () => {
    const inside = await start(sendPng);
    const host = await start((_, outgoing) => {
      outgoing.writeHead(307, { location: `http://inside.example:${inside.port}/` }).end();
    });
    const overrides = rules(host.port, {
      allowedHosts: [`pics.example:${host.port}`, `inside.example:${inside.port}`],
      isPublic: (address) => address === '127.0.0.1',
      resolve: (name) =>
        Promise.resolve([{ address: name === 'pics.example' ? '127.0.0.1' : '127.0.0.2', family: 4 }]),
    });
    const error = await rejection(source([], overrides).read(`http://pics.example:${host.port}/`, PARAM));
    expect(error.message).toMatch(/public address/);
    expect(inside.asked).toEqual([]);
  });

  test('three redirects are followed, a fourth is not', async () => {
    const host = await start((incoming, outgoing) => {
      const left = Number(incoming.url?.slice(1));
      if (left === 0) sendPng(incoming, outgoing);
      else outgoing.writeHead(302, { location: `/${left - 1}` }).end();
    });
    const own = source([], rules(host.port));
    await expect(own.read(`http://pics.example:${host.port}/3`, PARAM)).resolves.toMatchObject({
      type: 'png',
    });
    const error = await rejection(own.read(`http://pics.example:${host.port}/4`, PARAM));
    expect(error.message).toMatch(/3 redirects/);
  });

  const replies: Record<string, RequestListener> = {
    'no image by its type': (_, outgoing) => outgoing.setHeader('content-type', 'text/html').end(PNG),
    'no type': (_, outgoing) => outgoing.end(PNG),
    'no image by its bytes': (_, outgoing) => outgoing.setHeader('content-type', 'image/png').end('<html>'),
    'a status other than 200': (_, outgoing) =>
      outgoing.writeHead(206, { 'content-type': 'image/png' }).end(PNG),
    'packed bytes': (_, outgoing) =>
      outgoing.writeHead(200, { 'content-type': 'image/png', 'content-encoding': 'gzip' }).end(PNG),
    'an announced size over the limit': (_, outgoing) => {
      outgoing
        .writeHead(200, { 'content-type': 'image/png', 'content-length': LIMIT_BYTES + 1 })
        .flushHeaders();
    },
    'a body over the limit that never ends': (_, outgoing) => {
      outgoing.writeHead(200, { 'content-type': 'image/png' }).write(PNG);
      const timer = setInterval(() => outgoing.write(Buffer.alloc(500)), 1);
      outgoing.on('close', () => {
        clearInterval(timer);
      });
    },
    'a body that breaks off': (_, outgoing) => {
      outgoing.writeHead(200, { 'content-type': 'image/png', 'content-length': 500 }).write(PNG);
      setImmediate(() => outgoing.destroy());
    },
    'no HTTP': (_, outgoing) => outgoing.socket?.end('hello\r\n\r\n'),
  };
  test.each(Object.keys(replies))('%s is refused', async (kind) => {
    const host = await start((incoming, outgoing) => {
      replies[kind]?.(incoming, outgoing);
    });
    const error = await rejection(
      source([], rules(host.port)).read(`http://pics.example:${host.port}/`, PARAM),
    );
    expect(error.toBody()).toMatchObject({ param: PARAM, code: null, type: 'invalid_request_error' });
  });

  test.each(['headers', 'body'])('slow %s end at the time limit', async (what) => {
    const host = await start((_, outgoing) => {
      if (what === 'headers') return;
      outgoing.writeHead(200, { 'content-type': 'image/png' });
      const timer = setInterval(() => outgoing.write('x'), 20);
      outgoing.on('close', () => {
        clearInterval(timer);
      });
    });
    const own = source([], rules(host.port, { timeoutMs: 200 }));
    const error = await rejection(own.read(`http://pics.example:${host.port}/`, PARAM));
    expect(error.message).toMatch(/within 200 ms/);
  });

  test('a name that is slow to look up ends at the time limit', async () => {
    const own = source([], rules(80, { timeoutMs: 100, resolve: () => new Promise(() => undefined) }));
    const error = await rejection(own.read('http://pics.example:80/', PARAM));
    expect(error.status).toBe(400);
  });

  test('a client that leaves ends it', async () => {
    const abort = new AbortController();
    const host = await start(() => {
      abort.abort(new Error('gone'));
    });
    const reading = source([], rules(host.port)).read(
      `http://pics.example:${host.port}/`,
      PARAM,
      abort.signal,
    );
    await expect(reading).rejects.toThrow('gone');
  });

  test('proxies of the environment are not used', async () => {
    const proxy = await start(sendPng);
    const host = await start(sendPng);
    const before = { ...process.env };
    for (const name of ['http_proxy', 'HTTP_PROXY', 'NODE_USE_ENV_PROXY'])
      process.env[name] = name === 'NODE_USE_ENV_PROXY' ? '1' : `http://127.0.0.1:${proxy.port}`;
    try {
      await source([], rules(host.port)).read(`http://pics.example:${host.port}/`, PARAM);
    } finally {
      process.env = before;
    }
    expect({ proxy: proxy.asked.length, host: host.asked.length }).toEqual({ proxy: 0, host: 1 });
  });
});
