/** Linear layers of a graph: exact float32, or W8A8 (int8 weights, int8 activations, one scale per row). */
import { AppError } from '../errors.ts';
import type { Checkpoint } from './safetensors.ts';
import type { GraphBuilder } from './onnx.ts';
import { quantiseRows, transposeInto } from './quantise.kernel.ts';
import type { WeightFile } from './weight-file.ts';

export type Precision = 'int8' | 'fp32';

/**
 * Rows of an activation and a factor that is still missing from each of them. Left out where the rows are only
 * multiplied before they are prepared anew: a pass over all of them saved.
 */
export interface ScaledRows {
  /** [M, width]: float32, or once prepared, what the linears want (uint8 around 128). */
  readonly rows: string;
  /** [M, 1]; null = nothing is missing. */
  readonly rowScale: string | null;
}

/** One linear layer whose weights lie in the weights file; usable in any subgraph. */
export interface Linear {
  /** [M, in] prepared -> [M, out]. */
  apply(graph: GraphBuilder, x: ScaledRows): string;
  /** As `apply`, with the factor of each row left to the reader. */
  applyUnscaled(graph: GraphBuilder, x: ScaledRows): ScaledRows;
}

export interface Linears {
  /** Makes rows ready to be read by any number of linears. */
  prepare(graph: GraphBuilder, x: ScaledRows): ScaledRows;
  /** Loads `[out_i, in]` tensors stacked along their rows as one linear; biases are read where the checkpoint has them. */
  load(graph: GraphBuilder, tensorNames: readonly string[]): Linear;
}

/** Rows read from the checkpoint at a time: bounds the memory that conversion needs beside its result. */
const ROWS_PER_READ = 8192;

/** Activations are quantised as x / max|x| in steps of 1/127 around 128: a constant scale, whatever the row. */
const STEP = 1 / 127;
const ZERO_POINT = 128;

interface Stack {
  readonly names: readonly string[];
  readonly inSize: number;
  readonly outSize: number;
}

function stackOf(checkpoint: Checkpoint, names: readonly string[]): Stack {
  const shapes = names.map((name) => checkpoint.find(name)?.shape ?? [0, 0]);
  return { names, inSize: shapes[0]?.[1] ?? 0, outSize: shapes.reduce((sum, [rows = 0]) => sum + rows, 0) };
}

function* rowBlocks(
  checkpoint: Checkpoint,
  stack: Stack,
): Generator<{ name: string; rows: Float32Array; first: number; count: number }> {
  let first = 0;
  for (const name of stack.names) {
    const total = checkpoint.find(name)?.shape[0] ?? 0;
    for (let row = 0; row < total; row += ROWS_PER_READ) {
      const count = Math.min(ROWS_PER_READ, total - row);
      yield { name, rows: checkpoint.readRows(name, row, count), first, count };
      first += count;
    }
  }
}

function readBias(checkpoint: Checkpoint, stack: Stack): Float32Array | null {
  const biases = stack.names.map((name) => name.replace(/\.weight$/, '.bias'));
  if (biases.every((name) => checkpoint.find(name) === undefined)) return null;
  const bias = new Float32Array(stack.outSize);
  let at = 0;
  stack.names.forEach((name, i) => {
    const biasName = biases[i] ?? '';
    if (checkpoint.find(biasName) !== undefined) bias.set(checkpoint.read(biasName), at);
    at += checkpoint.find(name)?.shape[0] ?? 0;
  });
  return bias;
}

function addBias(graph: GraphBuilder, y: string, bias: string | null): string {
  return bias === null ? y : graph.node('Add', [y, bias]);
}

function loadBias(
  graph: GraphBuilder,
  checkpoint: Checkpoint,
  file: WeightFile,
  stack: Stack,
): string | null {
  const bias = readBias(checkpoint, stack);
  return bias === null ? null : graph.weight('bias', 'float', [stack.outSize], file.append(bias));
}

function floatLinears(checkpoint: Checkpoint, file: WeightFile): Linears {
  return {
    prepare: (_graph, x) => x,
    load(graph, names) {
      const stack = stackOf(checkpoint, names);
      const weights = new Float32Array(stack.inSize * stack.outSize);
      for (const { rows, first, count } of rowBlocks(checkpoint, stack)) {
        transposeInto(weights, rows, first, count, stack.inSize, stack.outSize);
      }
      const weight = graph.weight('weight', 'float', [stack.inSize, stack.outSize], file.append(weights));
      const bias = loadBias(graph, checkpoint, file, stack);
      const apply = (g: GraphBuilder, x: ScaledRows): string =>
        addBias(g, g.node('MatMul', [x.rows, weight]), bias);
      return { apply, applyUnscaled: (g, x) => ({ rows: apply(g, x), rowScale: null }) };
    },
  };
}

/** @throws AppError `startup` if a row of a tensor, whose scale this is, cannot be written as int8. */
export function checkScales(name: string, scales: Float32Array): void {
  if (scales.every(Number.isFinite)) return;
  throw new AppError('startup', `tensor ${name}: expected finite values, got infinity or NaN`);
}

/**
 * W8A8. Scale and zero point of the quantised activations are constants, the row's own scale is multiplied back
 * afterwards: per-row accuracy at per-tensor speed, and a row's result does not depend on its neighbours.
 */
function int8Linears(checkpoint: Checkpoint, file: WeightFile): Linears {
  return {
    prepare(graph, x) {
      const magnitudes = graph.node('Abs', [x.rows]);
      // Axis 1, not -1: of no rows at all, onnxruntime 1.30 otherwise makes a maximum of the wrong shape.
      const ownScale = graph.node('ReduceMax', [magnitudes, graph.constant('int64', [1])], { keepdims: 1 });
      const unit = graph.node('Div', [x.rows, ownScale]);
      const step = graph.constant('float', [STEP], []);
      const rows = graph.node('QuantizeLinear', [unit, step, graph.constant('uint8', [ZERO_POINT], [])]);
      return { rows, rowScale: x.rowScale === null ? ownScale : graph.node('Mul', [ownScale, x.rowScale]) };
    },
    load(graph, names) {
      const stack = stackOf(checkpoint, names);
      const { inSize, outSize } = stack;
      const weights = new Int8Array(inSize * outSize);
      const scales = new Float32Array(outSize);
      for (const { name, rows, first, count } of rowBlocks(checkpoint, stack)) {
        const quantised = new Int8Array(rows.length);
        const blockScales = scales.subarray(first, first + count);
        quantiseRows(quantised, blockScales, rows, count, inSize);
        checkScales(name, blockScales);
        transposeInto(weights, quantised, first, count, inSize, outSize);
      }
      const weight = graph.weight('weight', 'int8', [inSize, outSize], file.append(weights));
      const scale = graph.weight('scale', 'float', [outSize], file.append(scales));
      const bias = loadBias(graph, checkpoint, file, stack);
      const product = (g: GraphBuilder, rows: string): string => {
        const zero = g.constant('uint8', [ZERO_POINT], []);
        return g.contrib('MatMulIntegerToFloat', [
          rows,
          weight,
          g.constant('float', [STEP], []),
          scale,
          zero,
        ]);
      };
      const apply = (g: GraphBuilder, { rows, rowScale }: ScaledRows): string => {
        const y = product(g, rows);
        return addBias(g, rowScale === null ? y : g.node('Mul', [y, rowScale]), bias);
      };
      return {
        apply,
        applyUnscaled: (g, x) =>
          bias === null
            ? { rows: product(g, x.rows), rowScale: x.rowScale }
            : { rows: apply(g, x), rowScale: null },
      };
    },
  };
}

export function linearsFor(precision: Precision, checkpoint: Checkpoint, file: WeightFile): Linears {
  return precision === 'int8' ? int8Linears(checkpoint, file) : floatLinears(checkpoint, file);
}
