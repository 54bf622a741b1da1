/** Writes ONNX protobuf: a builder for graphs with nested subgraphs and weights in an external file. */
import protobuf from 'protobufjs';
import { invariant } from '../errors.ts';

/** ONNX element types that we use. */
export const DATA_TYPE = { float: 1, uint8: 2, int8: 3, int64: 7, bool: 9 } as const;
export type DataType = keyof typeof DATA_TYPE;
/** Of constants; flags are inputs only. */
type NumberType = Exclude<DataType, 'bool'>;

const OPSETS = [
  { domain: '', version: 24 },
  { domain: 'com.microsoft', version: 1 },
];
const IR_VERSION = 10;

type Fields = Record<string, [type: string, id: number, rule?: 'repeated']>;

/** Field numbers of onnx.proto, for the messages that we write. */
const MESSAGES: Record<string, Fields> = {
  Model: {
    irVersion: ['int64', 1],
    producerName: ['string', 2],
    graph: ['Graph', 7],
    opsetImport: ['Opset', 8, 'repeated'],
  },
  Opset: { domain: ['string', 1], version: ['int64', 2] },
  Graph: {
    node: ['Node', 1, 'repeated'],
    name: ['string', 2],
    initializer: ['Tensor', 5, 'repeated'],
    input: ['ValueInfo', 11, 'repeated'],
    output: ['ValueInfo', 12, 'repeated'],
    valueInfo: ['ValueInfo', 13, 'repeated'],
  },
  Node: {
    input: ['string', 1, 'repeated'],
    output: ['string', 2, 'repeated'],
    name: ['string', 3],
    opType: ['string', 4],
    attribute: ['Attribute', 5, 'repeated'],
    domain: ['string', 7],
  },
  Attribute: {
    name: ['string', 1],
    f: ['float', 2],
    i: ['int64', 3],
    g: ['Graph', 6],
    ints: ['int64', 8, 'repeated'],
    type: ['int32', 20],
  },
  Tensor: {
    dims: ['int64', 1, 'repeated'],
    dataType: ['int32', 2],
    name: ['string', 8],
    rawData: ['bytes', 9],
    externalData: ['Entry', 13, 'repeated'],
    dataLocation: ['int32', 14],
  },
  Entry: { key: ['string', 1], value: ['string', 2] },
  ValueInfo: { name: ['string', 1], type: ['Type', 2] },
  Type: { tensorType: ['TensorType', 1] },
  TensorType: { elemType: ['int32', 1], shape: ['Shape', 2] },
  Shape: { dim: ['Dimension', 1, 'repeated'] },
  Dimension: { dimValue: ['int64', 1], dimParam: ['string', 2] },
};

const root = protobuf.Root.fromJSON({
  nested: Object.fromEntries(
    Object.entries(MESSAGES).map(([message, fields]) => [
      message,
      {
        fields: Object.fromEntries(
          Object.entries(fields).map(([name, [type, id, rule]]) => [
            name,
            { type, id, ...(rule ? { rule } : {}) },
          ]),
        ),
      },
    ]),
  ),
});

/** A dimension: a fixed size, or the name of one that is known only when the graph runs. */
export type Dimension = number | string;

/** Attribute values: integers, `{ float }`, integer lists and subgraphs. */
export type Attribute = number | { readonly float: number } | readonly number[] | GraphBuilder;

/** Bytes of an initializer that lie in the external weights file. */
export interface ExternalData {
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

const ATTRIBUTE_TYPE = { float: 1, int: 2, graph: 5, ints: 7 } as const;

function encodeAttribute(name: string, value: Attribute): object {
  if (value instanceof GraphBuilder) return { name, g: value.toMessage(), type: ATTRIBUTE_TYPE.graph };
  if (typeof value === 'number') return { name, i: value, type: ATTRIBUTE_TYPE.int };
  if ('float' in value) return { name, f: value.float, type: ATTRIBUTE_TYPE.float };
  return { name, ints: value, type: ATTRIBUTE_TYPE.ints };
}

function valueInfo(name: string, type: DataType, dims: readonly Dimension[]): object {
  const dim = dims.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d }));
  return { name, type: { tensorType: { elemType: DATA_TYPE[type], shape: { dim } } } };
}

/**
 * One graph or subgraph. Value names are unique over a graph and all its subgraphs, which see the values of the
 * graphs around them.
 */
export class GraphBuilder {
  readonly #names: { next: number };
  readonly #nodes: object[] = [];
  readonly #initializers: object[] = [];
  readonly #inputs: object[] = [];
  readonly #outputs: object[] = [];
  readonly #shapes: object[] = [];
  readonly #root: GraphBuilder;
  readonly #constants = new Map<string, string>();
  readonly #produced = new Set<string>();

  constructor(parent?: GraphBuilder) {
    this.#names = parent === undefined ? { next: 0 } : parent.#names;
    this.#root = parent === undefined ? this : parent.#root;
  }

  uniqueName(hint: string): string {
    return `${hint}_${this.#names.next++}`;
  }

  /** The value itself if a node of this graph computes it, else a copy: a subgraph can hand out nothing else. */
  produced(value: string): string {
    return this.#produced.has(value) ? value : this.node('Identity', [value]);
  }

  input(name: string, type: DataType, dims: readonly Dimension[]): string {
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: DataType, dims: readonly Dimension[]): void {
    this.#outputs.push(valueInfo(name, type, dims));
  }

  /** Adds a node with one output and returns that output's name. */
  node(
    op: string,
    inputs: readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): string {
    const output = this.uniqueName(op);
    this.nodeTo([output], op, inputs, attributes, domain);
    return output;
  }

  /** Adds a node of the com.microsoft domain with one output. */
  contrib(op: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string {
    return this.node(op, inputs, attributes, 'com.microsoft');
  }

  /** Adds a node whose outputs are named by the caller. */
  nodeTo(
    outputs: readonly string[],
    op: string,
    inputs: readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): void {
    for (const output of outputs) this.#produced.add(output);
    this.#nodes.push({
      input: inputs,
      output: outputs,
      name: this.uniqueName(`${op}_node`),
      opType: op,
      domain,
      attribute: Object.entries(attributes).map(([name, value]) => encodeAttribute(name, value)),
    });
  }

  /** A float32 initializer of this graph; unlike most values, it may be one of the graph's outputs as it is. */
  initializer(data: Float32Array, dims: readonly number[]): string {
    const name = this.uniqueName('initializer');
    const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#initializers.push({ name, dataType: DATA_TYPE.float, dims, rawData });
    return name;
  }

  /** A small constant, written once per graph. `dims` = [] is a scalar. */
  constant(type: NumberType, values: readonly number[], dims: readonly number[] = [values.length]): string {
    const digits = values.map((value) => (Object.is(value, -0) ? '-0' : value));
    const key = `${type}:${dims.join()}:${digits.join()}`;
    const known = this.#constants.get(key);
    if (known !== undefined) return known;
    const name = this.uniqueName('const');
    const data = {
      float: () => new Float32Array(values),
      uint8: () => new Uint8Array(values),
      int8: () => new Int8Array(values),
      int64: () => new BigInt64Array(values.map(BigInt)),
    }[type]();
    const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#initializers.push({ name, dataType: DATA_TYPE[type], dims, rawData });
    this.#constants.set(key, name);
    return name;
  }

  /**
   * A weight whose bytes lie in the external file. It belongs to the outermost graph, wherever it is used:
   * onnxruntime packs weights for its kernels and then lets go of the file only for those, and only if their user is
   * at most one `If` deep. Deeper, each product packs its weights again; elsewhere, memory holds them twice.
   */
  weight(hint: string, type: DataType, dims: readonly number[], data: ExternalData): string {
    const name = this.uniqueName(hint);
    this.#root.#initializers.push({
      name,
      dataType: DATA_TYPE[type],
      dims,
      dataLocation: 1,
      externalData: Object.entries(data).map(([key, value]) => ({ key, value: String(value) })),
    });
    return name;
  }

  /**
   * States the shape of a value that shape inference does not know. onnxruntime lets a node write over its input only
   * where it can tell that both are of one shape; dimensions of the same name are.
   */
  shaped(value: string, type: DataType, dims: readonly Dimension[]): string {
    this.#shapes.push(valueInfo(value, type, dims));
    return value;
  }

  reshape(value: string, dims: readonly number[]): string {
    return this.node('Reshape', [value, this.constant('int64', dims)]);
  }

  split(value: string, sizes: readonly number[], axis: number): string[] {
    if (sizes.length === 1) return [value];
    const outputs = sizes.map(() => this.uniqueName('part'));
    this.nodeTo(outputs, 'Split', [value, this.constant('int64', sizes)], { axis });
    return outputs;
  }

  concat(values: readonly string[], axis: number): string {
    const [first] = values;
    return values.length === 1 && first !== undefined ? first : this.node('Concat', values, { axis });
  }

  toMessage(): object {
    return {
      name: 'graph',
      node: this.#nodes,
      initializer: this.#initializers,
      input: this.#inputs,
      output: this.#outputs,
      valueInfo: this.#shapes,
    };
  }

  /** The serialised model. */
  toModel(): Uint8Array {
    const model = {
      irVersion: IR_VERSION,
      producerName: 'coppice',
      opsetImport: OPSETS,
      graph: this.toMessage(),
    };
    return root.lookupType('Model').encode(model).finish();
  }
}

/** Both ways of an `If`; each builds the values of `outputs`, which differ between the ways in their number of rows at most. */
export function choose(
  graph: GraphBuilder,
  condition: string,
  ways: readonly [then: (graph: GraphBuilder) => string[], otherwise: (graph: GraphBuilder) => string[]],
  outputs: readonly { readonly name: string; readonly rank: number }[],
): string[] {
  const [thenBranch, elseBranch] = ways.map((build) => {
    const sub = new GraphBuilder(graph);
    build(sub).forEach((name, i) => {
      const rank = outputs[i]?.rank ?? 0;
      sub.output(
        sub.produced(name),
        'float',
        Array.from({ length: rank }, () => sub.uniqueName('dim')),
      );
    });
    return sub;
  });
  invariant(thenBranch !== undefined && elseBranch !== undefined, 'an If has two ways');
  const names = outputs.map(({ name }) => graph.uniqueName(name));
  graph.nodeTo(names, 'If', [condition], { then_branch: thenBranch, else_branch: elseBranch });
  return names;
}

/** One subgraph that a scalar can pick. `build` returns the names of its outputs. */
export interface Case {
  readonly key: number;
  /** How often it is picked, as a share of any unit: frequent cases lie closer to the root. Default 1. */
  readonly weight?: number;
  build(graph: GraphBuilder): string[];
}

/** Where to part cases so that both sides are picked about equally often. */
function middle(cases: readonly Case[]): number {
  const weights = cases.map(({ weight = 1 }) => weight);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let left = 0;
  let best = 1;
  let smallest = Infinity;
  for (let at = 1; at < weights.length; at++) {
    left += weights[at - 1] ?? 0;
    const difference = Math.abs(total - 2 * left);
    if (difference < smallest) [best, smallest] = [at, difference];
  }
  return best;
}

/**
 * Picks one of the cases by the int64 scalar `selector`: a binary tree of `If` nodes, balanced by weight, so that a run
 * executes only what it asks for. Keys are ascending; a selector between two keys takes the lower one.
 * @returns names of the outputs, one for each of `outputs`
 */
export function select(
  graph: GraphBuilder,
  selector: string,
  cases: readonly Case[],
  outputs: readonly { readonly name: string; readonly rank: number }[],
): string[] {
  const [only] = cases;
  if (cases.length === 1 && only !== undefined) return only.build(graph);
  const half = middle(cases);
  const key = cases[half]?.key ?? 0;
  const condition = graph.node('Less', [selector, graph.constant('int64', [key], [])]);
  const pick = (part: readonly Case[]) => (g: GraphBuilder) => select(g, selector, part, outputs);
  return choose(graph, condition, [pick(cases.slice(0, half)), pick(cases.slice(half))], outputs);
}
