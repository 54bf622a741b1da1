/** The plainest request that the engine takes: what benchmarks and evaluations start from. */
import { GREEDY, type GenerationRequest } from '../src/runtime/protocol.ts';

type RequestNeeds = Pick<GenerationRequest, 'id' | 'promptIds' | 'maxTokens' | 'pruning'> &
  Partial<GenerationRequest>;

/** One greedy choice that nothing but its length ends, without prefix reuse, unless told otherwise. */
export function greedyRequest(needs: RequestNeeds): GenerationRequest {
  return {
    numChoices: 1,
    sampling: GREEDY,
    minTokens: 0,
    stopTokenIds: [],
    promptLogprobs: null,
    constraint: null,
    priority: 0,
    cachePrompt: false,
    reportProgress: false,
    ...needs,
  };
}
