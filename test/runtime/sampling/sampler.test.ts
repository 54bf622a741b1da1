/** The sampler of one choice: order of its steps, bookkeeping, determinism, frequencies, errors. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import { GREEDY as ALL_OFF, type SamplingParams } from '../../../src/runtime/protocol.ts';
import { createSamplingWorkspace } from '../../../src/runtime/sampling/distribution.kernel.ts';
import {
  createSampler,
  type Sample,
  type Sampler,
  type SamplerContext,
} from '../../../src/runtime/sampling/sampler.ts';
import { arbitraryLogits, descending, naiveSoftmax } from './naive.ts';

const GREEDY: SamplingParams = { ...ALL_OFF, seed: 0 };

/** Whose text is never complete. */
interface FreeSampler extends Sampler {
  sample(logits: Float32Array): Sample;
}

function samplerFor(
  vocabSize: number,
  params: Partial<SamplingParams>,
  context: Partial<SamplerContext> = {},
): FreeSampler {
  const workspace = createSamplingWorkspace(vocabSize);
  const defaults = {
    choice: 0,
    promptIds: new Int32Array(),
    minTokens: 0,
    stopTokenIds: [],
    constraint: null,
    workspace,
  };
  return createSampler({ ...GREEDY, ...params }, { ...defaults, ...context }) as FreeSampler;
}

/** Samples and accepts `count` tokens from the same logits. */
function generate(sampler: FreeSampler, logits: Float32Array, count: number): number[] {
  return Array.from({ length: count }, () => {
    const { tokenId } = sampler.sample(logits.slice());
    sampler.accept(tokenId);
    return tokenId;
  });
}

describe('greedy', () => {
  it('takes the largest logit, the lowest id among equals', () => {
    fc.assert(
      fc.property(arbitraryLogits, (logits) => {
        expect(samplerFor(logits.length, {}).sample(logits).tokenId).toBe(descending(logits)[0]);
      }),
    );
  });

  it('follows bias and penalties', () => {
    const logits = Float32Array.of(3, 2, 1);
    expect(
      generate(
        samplerFor(3, {
          logitBias: [
            [2, 2.5],
            [0, -100],
          ],
        }),
        logits,
        2,
      ),
    ).toEqual([2, 2]);
    expect(generate(samplerFor(3, { presencePenalty: 1.5 }), logits, 4)).toEqual([0, 1, 0, 0]);
    expect(generate(samplerFor(3, { frequencyPenalty: 0.75 }), logits, 5)).toEqual([0, 0, 1, 0, 1]);
  });
});

describe('penalties', () => {
  it('equal the plain definition', () => {
    const factor = fc.double({ min: 0.5, max: 2, noNaN: true });
    const offset = fc.double({ min: -2, max: 2, noNaN: true });
    const ids = fc.array(fc.nat(), { maxLength: 20 });
    fc.assert(
      fc.property(
        arbitraryLogits,
        ids,
        ids,
        factor,
        offset,
        offset,
        (logits, prompt, completion, rep, pres, freq) => {
          const size = logits.length;
          const promptIds = Int32Array.from(prompt, (id) => id % size);
          const completionIds = completion.map((id) => id % size);
          const params = { repetitionPenalty: rep, presencePenalty: pres, frequencyPenalty: freq };
          const sampler = samplerFor(size, params, { promptIds });
          for (const id of completionIds) sampler.accept(id);
          const actual = logits.slice();
          sampler.sample(actual);
          logits.forEach((logit, id) => {
            const count = completionIds.filter((other) => other === id).length;
            let expected = logit;
            if (count > 0 || promptIds.includes(id)) expected = logit > 0 ? logit / rep : logit * rep;
            expected -= freq * count + (count > 0 ? pres : 0);
            expect(actual[id]).toBeCloseTo(expected, 4);
          });
        },
      ),
    );
  });
});

describe('minimum length', () => {
  it('keeps stop ids out until it is reached', () => {
    const sampler = samplerFor(3, {}, { minTokens: 2, stopTokenIds: [0, 1] });
    expect(generate(sampler, Float32Array.of(3, 2, 1), 4)).toEqual([2, 2, 0, 0]);
  });

  it('is stronger than a bias', () => {
    const sampler = samplerFor(2, { logitBias: [[0, 100]] }, { minTokens: 1, stopTokenIds: [0] });
    expect(sampler.sample(Float32Array.of(0, 0)).tokenId).toBe(1);
  });
});

describe('seeds', () => {
  const flat = new Float32Array(1000);

  it('give the same tokens again, other seeds and choices others', () => {
    const run = (seed: number | null, choice: number): number[] =>
      generate(samplerFor(1000, { temperature: 1, topP: 0.9, seed }, { choice }), flat, 20);
    expect(run(-5, 1)).toEqual(run(-5, 1));
    expect(run(-5, 1)).not.toEqual(run(-5, 0));
    expect(run(-5, 1)).not.toEqual(run(-6, 1));
    expect(run(null, 0)).not.toEqual(run(null, 0));
  });

  it('are not disturbed by samplers beside them that share the workspace', () => {
    const workspace = createSamplingWorkspace(1000);
    const [a, b] = [1, 2].map((seed) => samplerFor(1000, { temperature: 1, topK: 500, seed }, { workspace }));
    const interleaved = Array.from({ length: 20 }, () => [
      generate(a!, flat, 1)[0],
      generate(b!, flat, 1)[0],
    ]);
    const alone = generate(samplerFor(1000, { temperature: 1, topK: 500, seed: 1 }), flat, 20);
    expect(interleaved.map(([tokenId]) => tokenId)).toEqual(alone);
  });
});

describe('frequencies', () => {
  const logits = Float32Array.of(1, 0, -1, 2, 0.5, 1.5, -2, 0);
  const numDraws = 20_000;

  // 99.9 % quantiles of chi-square with 7 and 3 degrees of freedom.
  it.each([
    ['temperature', { temperature: 1.3 }, 24.3],
    ['top-k', { temperature: 1.3, topK: 4 }, 16.3],
  ] as const)('follow the distribution under %s', (_, params, limit) => {
    const counts = new Array<number>(logits.length).fill(0);
    for (const id of generate(samplerFor(logits.length, { ...params, seed: 11 }), logits, numDraws))
      counts[id]!++;
    const kept = descending(logits).slice(0, 'topK' in params ? params.topK : logits.length);
    const probs = naiveSoftmax(
      kept.map((id) => logits[id]!),
      params.temperature,
    );
    const chiSquare = kept.reduce((total, id, i) => {
      const expected = numDraws * probs[i]!;
      return total + (counts[id]! - expected) ** 2 / expected;
    }, 0);
    expect(chiSquare).toBeLessThan(limit);
    expect(kept.reduce((total, id) => total + counts[id]!, 0)).toBe(numDraws);
  });
});

describe('logprobs', () => {
  it('are of the distribution before bias, penalties, masks and temperature', () => {
    const logits = Float32Array.of(3, 2, 1, 0);
    const expected = naiveSoftmax(logits).map(Math.log);
    const params = {
      temperature: 0.2,
      topK: 1,
      logitBias: [[3, 50]],
      repetitionPenalty: 1.5,
      logprobs: 2,
    } as const;
    const context = { promptIds: Int32Array.of(0), minTokens: 1, stopTokenIds: [1] };
    const sample = samplerFor(4, params, context).sample(logits.slice());
    expect(sample.tokenId).toBe(3);
    expect(sample.logprobs!.logprob).toBeCloseTo(expected[3]!, 9);
    expect(sample.logprobs!.top.map(([id]) => id)).toEqual([0, 1]);
    expect(sample.logprobs!.top[0]![1]).toBeCloseTo(expected[0]!, 9);
  });

  it('report the chosen token alone when no alternative is asked for', () => {
    expect(samplerFor(2, { logprobs: 0 }).sample(Float32Array.of(0, 0)).logprobs).toEqual({
      logprob: -Math.LN2,
      top: [],
    });
    expect(samplerFor(2, {}).sample(Float32Array.of(0, 0)).logprobs).toBeNull();
  });
});

describe('errors', () => {
  it.each([
    ['NaN', Float32Array.of(0, NaN, 1), 'got NaN for token 1'],
    ['NaN first', Float32Array.of(NaN, 1, 2), 'got NaN for token 0'],
    ['all masked', new Float32Array(3).fill(-Infinity), 'all -Infinity'],
    ['overflow', Float32Array.of(0, Infinity, 0), 'got Infinity for token 1'],
  ])('%s is an internal error, greedy or not', (_, logits, message) => {
    for (const params of [{}, { temperature: 1 }, { temperature: 1, topK: 1 }]) {
      const sample = (): unknown => samplerFor(3, params).sample(logits.slice());
      expect(sample).toThrow(AppError);
      expect(sample).toThrow(message);
      expect(sample).toThrow(expect.objectContaining({ errorCode: 'internal' }));
    }
  });

  it('a minimum length that forbids the whole vocabulary', () => {
    const sampler = samplerFor(2, {}, { minTokens: 1, stopTokenIds: [0, 1] });
    expect(() => sampler.sample(Float32Array.of(0, 0))).toThrow('all -Infinity');
  });

  it('logits or a bias of another vocabulary', () => {
    expect(() => samplerFor(3, {}).sample(new Float32Array(2))).toThrow('3 logits, got 2');
    expect(() => samplerFor(3, { logitBias: [[3, 1]] })).toThrow('token 3');
  });
});
