/** The normaliser of a tokenizer.json: what happens to text before it is cut into pieces. */
import { compilePattern } from './pattern.ts';
import type { NormalizerConfig } from './tokenizer-file.ts';

export type Normalizer = (text: string) => string;

export function compileNormalizer(config: NormalizerConfig): Normalizer {
  switch (config.type) {
    case 'Sequence': {
      const steps = config.normalizers.map(compileNormalizer);
      return (text) => steps.reduce((current, step) => step(current), text);
    }
    case 'Replace': {
      const pattern = compilePattern(config.pattern);
      return (text) => text.replace(pattern, () => config.content);
    }
    case 'Prepend':
      // The reference leaves an empty text empty; the JavaScript library prepends to it.
      return (text) => (text === '' ? '' : config.prepend + text);
    case 'Strip': {
      const { strip_left: left, strip_right: right } = config;
      return (text) => {
        const trimmed = left ? text.replace(/^\p{White_Space}+/u, '') : text;
        return right ? trimmed.replace(/\p{White_Space}+$/u, '') : trimmed;
      };
    }
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return (text) => text.normalize(config.type);
  }
}
