/** Names on a hub: `org/name`, optionally `org/name@revision`, checked before they enter a URL or a path. */
import { AppError } from '../errors.ts';

export interface HubId {
  /** `org/name`. */
  readonly repo: string;
  /** Branch, tag, `refs/pr/1`, or commit; null = not said. */
  readonly revision: string | null;
}

const DEFAULT_REVISION = 'main';

const NAME = /^\w(?:[\w.-]{0,94}\w)?$/;
const REVISION = /^\w(?:[\w./-]{0,198}\w)?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** A full commit id: the only kind of revision that never moves. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** `--` and `..` are forbidden by the hub too; without them `org--name` is an unambiguous folder name. */
function isRepo(repo: string): boolean {
  const [org, name, ...rest] = repo.split('/');
  if (org === undefined || name === undefined || rest.length > 0) return false;
  return [org, name].every((part) => NAME.test(part) && !/--|\.\.|\.git$/.test(part));
}

function isRevision(revision: string): boolean {
  return REVISION.test(revision) && !/\.\.|\/\/|\/\.|\.\//.test(revision);
}

/** Null when `text` is not written like a hub id. */
export function tryParseHubId(text: string): HubId | null {
  const at = text.indexOf('@');
  const repo = at < 0 ? text : text.slice(0, at);
  const revision = at < 0 ? null : text.slice(at + 1);
  return isRepo(repo) && (revision === null || isRevision(revision)) ? { repo, revision } : null;
}

/** @throws AppError `startup` when `text` is not `org/name` or `org/name@revision`. */
export function parseHubId(text: string): HubId {
  const id = tryParseHubId(text);
  if (id) return id;
  throw new AppError(
    'startup',
    `expected a hub id such as org/name or org/name@revision, got ${JSON.stringify(text)}`,
  );
}

/**
 * The revision meant by an id and a separate option; `main` when neither says.
 * @throws AppError `startup` when they disagree or the option is no revision name.
 */
export function chooseRevision(id: HubId, option: string | undefined): string {
  if (option !== undefined && !isRevision(option)) {
    throw new AppError(
      'startup',
      `expected a branch, tag or commit as revision, got ${JSON.stringify(option)}`,
    );
  }
  if (option !== undefined && id.revision !== null && option !== id.revision) {
    throw new AppError('startup', `expected one revision of ${id.repo}, got ${id.revision} and ${option}`);
  }
  return option ?? id.revision ?? DEFAULT_REVISION;
}
