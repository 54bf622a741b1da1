import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

/** Layers from the bottom up; a layer may import itself and everything before it. */
const layers = [
  ['errors.ts', 'package-info.ts', 'validation.ts'],
  ['kv'],
  ['policies'],
  ['graph'],
  ['runtime'],
  ['text'],
  ['config-schema.ts', 'config.ts', 'hub', 'log.ts'],
  ['server'],
  ['commands'],
  ['main.ts'],
];
/** What the files of a layer may not import: everything above it. */
const directions = layers.flatMap((names, i) => {
  const above = layers.slice(i + 1).flat();
  if (above.length === 0) return [];
  const regex = `^(\\.\\.?/)+(${above.map((name) => name.replace('.', '\\.') + (name.includes('.') ? '$' : '/')).join('|')})`;
  const rule = ['error', { patterns: [{ regex, message: 'imports point downwards: see ARCHITECTURE.md' }] }];
  return names.map((name) => ({
    files: [name.includes('.') ? `src/${name}` : `src/${name}/**`],
    rules: { 'no-restricted-imports': rule },
  }));
});

export default tseslint.config(
  { ignores: ['dist', 'models', 'test/fixtures', '**/.venv'] },
  eslint.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ['*.js'] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
    },
  },
  ...directions,
  // Numeric kernels index typed arrays in loops whose bounds are checked once outside.
  {
    files: ['src/**/*.kernel.ts', 'test/**', 'bench/**', 'eval/**', 'load-tests/**'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  { files: ['**/*.js'], extends: [tseslint.configs.disableTypeChecked] },
);
