/** Reads names out of PromQL: metrics with the labels that select them, and labels that group or join. */

export interface Query {
  readonly metrics: { readonly name: string; readonly labels: readonly string[] }[];
  readonly grouped: string[];
}

const TOKEN = /\s+|"(?:[^"\\]|\\.)*"|[A-Za-z_:$][\w:]*|[\d.]+[a-z]*|=~|!~|!=|==|>=|<=|[-+*/%^(){}[\],=<>]/y;
const LISTS: ReadonlySet<string> = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right']);
const WORDS: ReadonlySet<string> = new Set(['and', 'or', 'unless', 'bool', 'offset']);
const MATCHES: ReadonlySet<string> = new Set(['=', '!=', '=~', '!~']);
const CLOSING: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

function tokenize(text: string): string[] {
  const tokens: string[] = [];
  for (let end = 0; end < text.length; end = TOKEN.lastIndex) {
    TOKEN.lastIndex = end;
    const [token] = TOKEN.exec(text) ?? [];
    if (token === undefined) throw new Error(`unexpected ${text.slice(end, end + 10)} in ${text}`);
    if (token.trim() !== '') tokens.push(token);
  }
  return tokens;
}

function checkBrackets(tokens: readonly string[]): void {
  const open: string[] = [];
  for (const token of tokens) {
    const closing = CLOSING[token];
    if (closing !== undefined) open.push(closing);
    else if (/^[)\]}]$/.test(token) && open.pop() !== token) throw new Error(`unexpected ${token}`);
  }
  if (open.length > 0) throw new Error(`expected ${open.join('')} at the end`);
}

/** @throws Error for brackets that do not fit, and matchers that are none */
export function readQuery(text: string): Query {
  const tokens = tokenize(text);
  checkBrackets(tokens);
  const query: Query = { metrics: [], grouped: [] };
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (LISTS.has(token)) {
      const end = tokens.indexOf(')', i);
      for (const label of tokens.slice(i + 2, end)) {
        if (/^[a-z_]\w*$/.test(label)) query.grouped.push(label);
        else if (label !== ',') throw new Error(`expected a label, got ${label}`);
      }
      i = end;
    } else if (token === '[') i = tokens.indexOf(']', i);
    else if (/^[A-Za-z_:]/.test(token) && !WORDS.has(token) && tokens[i + 1] !== '(') {
      // An aggregation may have its labels before what it aggregates.
      if (LISTS.has(tokens[i + 1] ?? '') && tokens[tokens.indexOf(')', i) + 1] === '(') continue;
      const end = tokens[i + 1] === '{' ? tokens.indexOf('}', i) : i;
      query.metrics.push({ name: token, labels: matchers(tokens.slice(i + 2, end)) });
      i = end;
    }
  }
  return query;
}

function matchers(tokens: readonly string[]): string[] {
  const labels: string[] = [];
  for (let i = 0; i < tokens.length; i += 4) {
    const [label = '', match = '', value = '', comma = ','] = tokens.slice(i, i + 4);
    if (!MATCHES.has(match) || !value.startsWith('"') || comma !== ',')
      throw new Error(`expected a matcher, got ${label} ${match} ${value}`);
    labels.push(label);
  }
  return labels;
}
