/** Paths that machines ask over and over: no failures of clients, and too many lines for a log. */

export const PROBES: ReadonlySet<string> = new Set(['/health', '/ready', '/metrics']);
