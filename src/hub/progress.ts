/** Shows a pull to the user: a bar on a terminal, plain lines elsewhere. */
import { MultiBar } from 'cli-progress';
import type { SingleBar } from 'cli-progress';
import type { PullProgress } from './pull.ts';

export interface PullDisplay {
  readonly onProgress: (progress: PullProgress) => void;
  /** A line of text that does not disturb the bar. */
  readonly onNotice: (line: string) => void;
  readonly stop: () => void;
}

/** For `stream`, usually stderr. Call `stop` when the pull ends, well or badly. */
export function progressBar(stream: NodeJS.WriteStream): PullDisplay {
  return stream.isTTY ? terminalBar(stream) : plainLines(stream);
}

function terminalBar(stream: NodeJS.WriteStream): PullDisplay {
  const format = '{bar} {percentage}% of {size}, {file}';
  const bars = new MultiBar({ stream, format });
  let bar: SingleBar | null = null;
  return {
    onProgress({ file, overallReceivedBytes, overallTotalBytes }) {
      const payload = { file, size: formatBytes(overallTotalBytes) };
      bar ??= bars.create(overallTotalBytes, 0, payload);
      bar.update(overallReceivedBytes, payload);
    },
    onNotice(line) {
      if (!bar) {
        stream.write(`${line}\n`);
        return;
      }
      bars.log(`${line}\n`);
      // Drawn now: what is only queued would be lost if the pull stopped next.
      bars.update();
    },
    stop() {
      if (bar) bars.stop();
    },
  };
}

/** One line for each file, and one for each tenth of the whole inside a large one. */
function plainLines(stream: NodeJS.WriteStream): PullDisplay {
  let tenth = 0;
  return {
    onProgress({ file, receivedBytes, totalBytes, overallReceivedBytes, overallTotalBytes }) {
      const done = overallReceivedBytes / overallTotalBytes;
      if (receivedBytes < totalBytes && Math.floor(done * 10) <= tenth) return;
      tenth = Math.floor(done * 10);
      const percent = Math.floor(done * 100);
      stream.write(
        `${file}: ${formatBytes(receivedBytes)} of ${formatBytes(totalBytes)} (${percent}% of all)\n`,
      );
    },
    onNotice(line) {
      stream.write(`${line}\n`);
    },
    stop() {
      // Nothing is pending: every line was written whole.
    },
  };
}

/** Binary units, one decimal: `1.2 GiB`. */
function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 2 ** (10 * power)).toFixed(power === 0 ? 0 : 1)} ${units[power] ?? ''}`;
}
