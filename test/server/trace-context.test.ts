/** The caller's place in a trace: what the specification accepts, and what begins a new trace. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readTraceParent, traceHeaders } from '../../src/server/trace-context.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';
const read = (traceparent: string | undefined, tracestate?: string) =>
  readTraceParent({ traceparent, tracestate });

describe('accepted', () => {
  test('a parent that records', () => {
    expect(read(`00-${TRACE}-${SPAN}-01`, 'a=1')).toEqual({
      traceId: TRACE,
      spanId: SPAN,
      isSampled: true,
      state: 'a=1',
    });
  });

  test.each([
    ['00', false],
    ['01', true],
    ['02', false],
    ['03', true],
    ['ff', true],
  ])('of flags %s only the lowest bit counts', (flags, isSampled) => {
    expect(read(`00-${TRACE}-${SPAN}-${flags}`)).toMatchObject({ isSampled });
  });

  test('a later version, with more behind what is known', () => {
    for (const rest of ['', '-', '-what-the-future-will-be-like'])
      expect(read(`cc-${TRACE}-${SPAN}-01${rest}`)).toMatchObject({ traceId: TRACE, spanId: SPAN });
  });
});

test.each([
  ['nothing', undefined],
  ['empty', ''],
  ['version ff', `ff-${TRACE}-${SPAN}-01`],
  ['more in version 00', `00-${TRACE}-${SPAN}-01-00`],
  ['more in a later version, without a dash', `cc-${TRACE}-${SPAN}-01.x`],
  ['a trace of zeros', `00-${'0'.repeat(32)}-${SPAN}-01`],
  ['a span of zeros', `00-${TRACE}-${'0'.repeat(16)}-01`],
  ['capitals', `00-${TRACE.toUpperCase()}-${SPAN}-01`],
  ['a short trace', `00-${TRACE.slice(1)}-${SPAN}-01`],
  ['a long span', `00-${TRACE}-${SPAN}0-01`],
  ['no flags', `00-${TRACE}-${SPAN}`],
  ['two headers', `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`],
])('ignored: %s', (_, value) => {
  expect(read(value, 'a=1')).toBeNull();
});

test('no text makes it throw, or ids that are none', () => {
  const piece = fc.oneof(fc.string(), fc.constantFrom('00', TRACE, SPAN, '01', 'ff', '0'.repeat(32)));
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 6 }), (pieces) => {
      const parent = read(pieces.join('-'));
      if (parent === null) return;
      expect(parent.traceId).toMatch(/^[\da-f]{32}$/);
      expect(parent.spanId).toMatch(/^[\da-f]{16}$/);
    }),
  );
});

test('headers of Node', () => {
  expect(traceHeaders({ traceparent: 'x', other: ['y'] })).toEqual({
    traceparent: 'x',
    tracestate: undefined,
  });
});
