/** String formats that a grammar can enforce: OpenAI's list, and `uri`. */

const DAY_OF_ANY_YEAR =
  '((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))';
const LEAP_YEAR = '(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)';
const DATE = `(\\d{4}-${DAY_OF_ANY_YEAR}|${LEAP_YEAR}-02-29)`;
const TIME = '([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)';
const BYTE = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const LABEL = '[A-Za-z0-9](-?[A-Za-z0-9])*';
const HOST = `${LABEL}(\\.${LABEL})*`;
const GROUP = '[0-9a-fA-F]{1,4}';
const URI_CHARACTER = "([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})";
const CLOCK = '(\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?|\\d{1,4}M(\\d{1,4}S)?|\\d{1,4}S)';
const CALENDAR = '(\\d{1,4}Y(\\d{1,4}M(\\d{1,4}D)?)?|\\d{1,4}M(\\d{1,4}D)?|\\d{1,4}D)';

/** By name: a regular expression for the whole string. */
export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  'date-time': `${DATE}T${TIME}`,
  duration: `P(${CALENDAR}(T${CLOCK})?|T${CLOCK}|\\d{1,4}W)`,
  email: `[A-Za-z0-9](\\.?[A-Za-z0-9_+-])*@${LABEL}(\\.${LABEL})*\\.[A-Za-z]{2,8}`,
  hostname: HOST,
  ipv4: `${BYTE}(\\.${BYTE}){3}`,
  ipv6: `${GROUP}(:${GROUP}){7}|::(${GROUP}(:${GROUP}){0,5})?|${GROUP}::(${GROUP}(:${GROUP}){0,4})?`,
  uuid: '[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}',
  uri: `[a-z][a-z0-9+.-]*://${HOST}(:\\d{1,5})?(/${URI_CHARACTER}*)?(\\?(${URI_CHARACTER}|\\?)*)?(#(${URI_CHARACTER}|\\?)*)?`,
};
