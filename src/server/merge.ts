/** Several event streams as one, in order of arrival; a source is asked for more only when its last event was taken. */

type Arrival<T> = { index: number; result: IteratorResult<T> } | { index: number; error: unknown };

/**
 * Yields [source index, event]. Leaving early ends every source.
 * @throws the first error of a source, or the signal's reason once it is aborted
 */
export async function* merge<T>(
  sources: readonly AsyncIterable<T>[],
  signal: AbortSignal,
): AsyncGenerator<readonly [number, T], void, void> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const arrivals: Arrival<T>[] = [];
  let wake: () => void = () => undefined;
  const pull = (index: number) => {
    const arrive = (arrival: Arrival<T>) => {
      arrivals.push(arrival);
      wake();
    };
    iterators[index]?.next().then(
      (result) => {
        arrive({ index, result });
      },
      (error: unknown) => {
        arrive({ index, error });
      },
    );
  };
  const onAbort = () => {
    wake();
  };
  signal.addEventListener('abort', onAbort);
  try {
    for (const index of iterators.keys()) pull(index);
    for (let numOpen = iterators.length; numOpen > 0;) {
      signal.throwIfAborted();
      const arrival = arrivals.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => (wake = resolve));
        continue;
      }
      if ('error' in arrival) throw arrival.error;
      if (arrival.result.done === true) {
        numOpen--;
        continue;
      }
      yield [arrival.index, arrival.result.value];
      pull(arrival.index);
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    // Not awaited: a source that is waiting for its next event returns only after it.
    for (const iterator of iterators) void iterator.return?.().catch(() => undefined);
  }
}
