/** Loads the grammar library, each time as an instance of its own: WebAssembly with its memory. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { compileFunction } from 'node:vm';
import type * as xgrammar from '@mlc-ai/web-xgrammar';

export type GrammarLibrary = typeof xgrammar;

/**
 * The package calls itself a module but is a script for browsers and CommonJS: neither `import` nor `require` can load
 * it. It is read and run as CommonJS; without `process` it takes the browser's way, which asks for nothing else.
 * Its warnings are about grammars, and so about what clients send: they are not ours to print.
 */
export function loadGrammarLibrary(): GrammarLibrary {
  const require = createRequire(import.meta.url);
  const filename = require.resolve('@mlc-ai/web-xgrammar');
  const exports = {};
  const silent = { ...console, log: ignore, warn: ignore, error: ignore };
  const parameters = ['exports', 'module', 'require', '__filename', 'process', 'console'];
  const run = compileFunction(readFileSync(filename, 'utf8'), parameters, { filename });
  (run as (...values: unknown[]) => void)(exports, { exports }, require, filename, undefined, silent);
  return exports as GrammarLibrary;
}

function ignore(): void {
  // See above.
}
