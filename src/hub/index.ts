/** Models from a hub, fetched only when the user asks: what the command line and the server may use. */
export { resolveModel } from './cache.ts';
export { progressBar } from './progress.ts';
export { pullModel } from './pull.ts';
export type { PullOptions, PullProgress } from './pull.ts';
