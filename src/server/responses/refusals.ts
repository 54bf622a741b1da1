/** Refuses what responses cannot be asked for here, by name. */
import { AppError } from '../../errors.ts';
import { refuseFields, refuseSpeculative } from '../refusals.ts';
import type { ResponseBody } from '../schemas/responses.ts';

const UNSUPPORTED = ['conversation', 'prompt', 'context_management'] as const;

/** @throws AppError `unsupported_parameter`, `unsupported_value` for what the server cannot do */
export function refuseResponseFields(fields: ResponseBody): void {
  refuseFields({ background: fields.background });
  refuseSpeculative({ speculative: fields.speculative });
  for (const name of UNSUPPORTED) {
    const value = fields[name];
    if (value === undefined || value === null) continue;
    throw new AppError('unsupported_parameter', `${name} is not supported; expected no value`, {
      param: name,
    });
  }
  if (fields.truncation === 'auto') {
    throw new AppError('unsupported_value', 'truncation: expected "disabled", got "auto"', {
      param: 'truncation',
    });
  }
}
