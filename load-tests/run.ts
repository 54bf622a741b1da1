/** `npm run load -- <command>`: tests that put load on a server of their own, too long for `npm test`. */
import { Command } from 'commander';
import { addSoakCommand } from './soak.ts';
import { addWavesCommand } from './waves.ts';

const program = new Command('load').description(
  'load tests against a server started for them (npm run build first)',
);
addSoakCommand(program);
addWavesCommand(program);
await program.parseAsync();
