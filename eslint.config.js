import eslint from '@eslint/js';
import { importX } from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

/** Layers from the bottom up; a layer may import itself and everything before it. */
const layers = [
  ['errors.ts', 'validation.ts'],
  ['kv'],
  ['graph'],
  ['runtime'],
  ['text'],
  ['config.ts', 'hub', 'log.ts'],
  ['server'],
  ['commands'],
  ['main.ts'],
];
const zones = layers.flatMap((names, i) =>
  names.map((name) => ({
    target: `./src/${name}`,
    from: layers
      .slice(i + 1)
      .flat()
      .map((above) => `./src/${above}`),
  })),
);

export default tseslint.config(
  { ignores: ['dist', 'models', 'test/fixtures', 'bench/peers/.venv'] },
  eslint.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ['*.js'] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    plugins: { 'import-x': importX },
    rules: {
      'import-x/no-restricted-paths': ['error', { zones: zones.filter((z) => z.from.length > 0) }],
      'import-x/no-cycle': 'error',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
    },
  },
  // Numeric kernels index typed arrays in loops whose bounds are checked once outside.
  {
    files: ['src/**/*.kernel.ts', 'test/**', 'bench/**'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  { files: ['**/*.js'], extends: [tseslint.configs.disableTypeChecked] },
);
