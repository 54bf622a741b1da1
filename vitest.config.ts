import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** `unit` needs no model, `model` runs real checkpoints in this process, `server` talks HTTP to a started server,
 * `conformance` knows nothing of one but its address. */
export default defineConfig({
  test: {
    // The default leaves one processor to nobody: on two there would be one worker.
    maxWorkers: availableParallelism(),
    reporters: ['default', './test/closing-line.ts'],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/{kv,policies,text,graph,runtime,config,eval}/**/*.test.ts', 'test/*.test.ts'],
        },
      },
      {
        test: {
          name: 'model',
          include: ['test/model/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'server',
          include: ['test/server/**/*.test.ts', 'test/cli/**/*.test.ts'],
          exclude: ['test/server/conformance/**'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'conformance',
          include: ['test/server/conformance/**/*.test.ts'],
          globalSetup: 'test/server/conformance/support/setup.ts',
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Its files share a server and watch its gauges: one after the other, and after everything else.
          fileParallelism: false,
          isolate: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
