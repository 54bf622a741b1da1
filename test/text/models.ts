/** Model folders for tests of the text layer: fixtures unpacked, and folders made on the spot. */
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Tokenizer } from '../../src/text/tokenizer.ts';

const fixtures = join(import.meta.dirname, '../fixtures');
const loaded = new Map<string, Tokenizer>();

export function readFixture(path: string): unknown {
  return JSON.parse(readFileSync(join(fixtures, path), 'utf8'));
}

/** A new folder with these files; objects are written as JSON. */
export function makeModelDir(files: Readonly<Record<string, unknown>>): string {
  const dir = mkdtempSync(join(tmpdir(), 'coppice-text-'));
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return dir;
}

export function modelDir(name: string): string {
  if (name === 'coppice-recall') return join(fixtures, '../../models', name);
  const dir = join(fixtures, 'models', name);
  return existsSync(dir) ? dir : makeModelDir({ 'tokenizer.json': readTokenizerJson(name) });
}

/** The tokenizer of a fixture, loaded once per test file. */
export function loadTokenizer(name: string): Tokenizer {
  let tokenizer = loaded.get(name);
  if (tokenizer === undefined) loaded.set(name, (tokenizer = Tokenizer.load(modelDir(name))));
  return tokenizer;
}

export interface TokenizerJson {
  added_tokens: Record<string, unknown>[];
  model: Record<string, unknown>;
  [key: string]: unknown;
}

export function readTokenizerJson(name: string): TokenizerJson {
  const packed = join(fixtures, 'tokenizers', `${name}.tokenizer.json.gz`);
  const text = existsSync(packed)
    ? gunzipSync(readFileSync(packed)).toString('utf8')
    : readFileSync(join(modelDir(name), 'tokenizer.json'), 'utf8');
  return JSON.parse(text) as TokenizerJson;
}

/** A small tokenizer (that of stories260K) with changes. */
export function makeTokenizer(change: (json: TokenizerJson) => void, config: unknown = {}): Tokenizer {
  const json = readTokenizerJson('stories260K');
  change(json);
  return Tokenizer.load(makeModelDir({ 'tokenizer.json': json, 'tokenizer_config.json': config }));
}

/** The byte-level tokenizer of the demo model with more control tokens. */
export function makeByteLevelTokenizer(controlTexts: readonly string[]): Tokenizer {
  const dir = modelDir('coppice-recall');
  const json = JSON.parse(readFileSync(join(dir, 'tokenizer.json'), 'utf8')) as TokenizerJson;
  const first = Object.keys(json.model.vocab as object).length;
  const known = new Set(json.added_tokens.map((token) => token.content));
  controlTexts
    .filter((content) => !known.has(content))
    .forEach((content, i) =>
      json.added_tokens.push({ id: first + i, content, special: true, normalized: false }),
    );
  return Tokenizer.load(makeModelDir({ 'tokenizer.json': json }));
}
