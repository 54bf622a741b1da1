/** The programs that are measured: where each lies, what it needs, and how one fresh process of it is run. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { benchFolder } from './checkpoint.ts';
import type { Measurement } from './prompts.ts';

export interface Engine {
  readonly name: string;
  /** Program and arguments before the options. */
  readonly command: readonly string[];
  readonly model: string;
  /** Must exist, or the engine is left out. */
  readonly needs: readonly string[];
}

export interface Engines {
  readonly coppice: Engine;
  readonly openvino: Engine;
  readonly llama: readonly Engine[];
}

const here = path.dirname(fileURLToPath(import.meta.url));
const tsx = path.join(here, '..', 'node_modules', '.bin', 'tsx');
const python = path.join(here, 'peers', '.venv', 'run', 'bin', 'python');

export const RESULTS_FOLDER = path.join(here, 'results');

export function findEngines(checkpoint: string): Engines {
  const files = benchFolder();
  const llama = (quantisation: string): Engine => ({
    name: `llama-${quantisation}`,
    command: [tsx, path.join(here, 'peers', 'llama-cpp.ts')],
    model: path.join(files, `${quantisation}.gguf`),
    needs: [
      path.join(here, 'peers', 'node_modules', 'node-llama-cpp'),
      path.join(files, `${quantisation}.gguf`),
    ],
  });
  const openvino = path.join(files, 'openvino-int8');
  return {
    coppice: {
      name: 'coppice',
      // As `npm start` and the engine's thread set them.
      command: [tsx, '--single-threaded-gc', '--no-incremental-marking', path.join(here, 'coppice.ts')],
      model: checkpoint,
      needs: [],
    },
    openvino: {
      name: 'openvino',
      command: [python, '-B', path.join(here, 'peers', 'openvino-genai.py')],
      model: openvino,
      needs: [python, openvino],
    },
    llama: [llama('q4_0'), llama('q8_0')],
  };
}

/** Those that are there; the others are told. */
export function installed<T extends Pick<Engine, 'name' | 'needs'>>(chosen: readonly T[]): T[] {
  const present = chosen.filter(({ needs }) => needs.every((file) => fs.existsSync(file)));
  const missing = chosen.filter((engine) => !present.includes(engine)).map(({ name }) => name);
  if (missing.length > 0)
    process.stderr.write(`not installed, left out (see bench/peers/setup): ${missing.join(', ')}\n`);
  return present;
}

/** One fresh process; its last line on stdout is the measurement. Null when it failed, which is told. */
export function measure(engine: Engine, options: readonly string[]): Measurement | null {
  const [program = '', ...rest] = engine.command;
  const run = spawnSync(program, [...rest, '--model', engine.model, ...options], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const line = run.stdout.trim().split('\n').at(-1) ?? '';
  if (run.status !== 0 || line === '') {
    process.stderr.write(`${engine.name} failed (exit ${run.status}):\n${run.stderr.slice(-2000)}\n`);
    return null;
  }
  return JSON.parse(line) as Measurement;
}

/** Converts the checkpoint once, so that no round measures it. */
export function warmUp(coppice: Engine): void {
  measure(coppice, ['--prefill', '64', '--decode', '64', '--no-streams']);
}

/** One line for the head of a result. */
export function describeRun(numRounds: number): string {
  const cpu = os.cpus()[0]?.model ?? 'unknown processor';
  const date = new Date().toISOString().slice(0, 10);
  return `${os.cpus().length} x ${cpu}, node ${process.version}, ${numRounds} rounds, ${date}`;
}

export function saveResult(file: string, result: unknown): void {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, JSON.stringify(result, null, 1));
}
