/** Progress on standard error: one line that changes on a terminal, a line each elsewhere. */

/** `isLast` ends the changing line. */
export function showProgress(message: string, isLast = message.endsWith('100 %')): void {
  const { stderr } = process;
  if (!stderr.isTTY) stderr.write(`${message}\n`);
  else stderr.write(`\r\x1b[K${message}${isLast ? '\n' : ''}`);
}
