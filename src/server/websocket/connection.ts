/** One WebSocket: frames in, objects of their replies out; whatever runs ends with the connection. */
import { setMaxListeners } from 'node:events';
import type { Socket } from 'node:net';
import type { RawData, WebSocket } from 'ws';
import { AppError } from '../../errors.ts';
import { logFields } from '../access-log.ts';
import type { ServerContext } from '../context.ts';
import { toAppError } from '../errors.ts';
import { ClientGoneError } from '../generation-job.ts';
import type { Call, Operation } from '../operation.ts';
import { chooseRequestId } from '../request-id.ts';
import { countFailure } from '../request-meter.ts';
import { RequestRecord } from '../request-record.ts';
import type { TraceHeaders } from '../trace-context.ts';
import type { Dialect } from './dialect.ts';
import { FrameError, readFrame } from './frame.ts';
import type { Frame, StreamId } from './frame.ts';
import { keepAlive } from './heartbeat.ts';
import { Lanes } from './lanes.ts';

/** Close codes of RFC 6455. */
const CLOSE = { goingAway: 1001, unsupportedData: 1003 } as const;

/** Unsent bytes above which no more frames are read: replies to bad ones must not pile up either. */
const MAX_UNSENT_BYTES = 2 ** 20;

export interface ConnectionOptions {
  readonly path: string;
  readonly dialect: Dialect;
  /** Whose key it was opened with. */
  readonly client: string | null;
  /** Of the upgrade request. */
  readonly pruningHeader: string | undefined;
  readonly traceHeaders: TraceHeaders;
}

export class Connection {
  readonly #context: ServerContext;
  readonly #socket: WebSocket;
  readonly #options: ConnectionOptions;
  readonly #operation: Operation;
  readonly #lanes: Lanes;
  /** Aborted when the client is gone. */
  readonly #left = new AbortController();
  #isDraining = false;

  constructor(context: ServerContext, socket: WebSocket, transport: Socket, options: ConnectionOptions) {
    const { websocket, limits } = context.config;
    this.#context = context;
    this.#socket = socket;
    this.#options = options;
    this.#operation = options.dialect.createOperation(context);
    this.#lanes = new Lanes({
      maxStreams: websocket.max_streams,
      maxPendingBytes: limits.frame_bytes,
      answer: (frame, stopSignal) => this.#answer(frame, stopSignal),
      onIdle: () => {
        if (this.#isDraining) socket.close(CLOSE.goingAway);
      },
    });
    // A listener for each lane.
    setMaxListeners(0, this.#left.signal);
    socket.on('message', (data, isBinary) => {
      this.#receive(data, isBinary);
    });
    // A frame against the protocol or over the limit: the library closes with the code that says so.
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.#leave();
    });
    keepAlive(socket, transport, websocket.ping_ms);
  }

  /** Closes as soon as nothing runs here. */
  drain(): void {
    this.#isDraining = true;
    if (this.#lanes.isIdle) this.#socket.close(CLOSE.goingAway);
  }

  /** Ends what runs and forgets what waits. */
  #leave(): void {
    this.#left.abort();
    this.#lanes.clear();
  }

  #receive(data: RawData, isBinary: boolean): void {
    if (isBinary) {
      this.#socket.close(CLOSE.unsupportedData, 'expected text frames');
      return;
    }
    try {
      const frame = readFrame((data as Buffer).toString('utf8'), this.#options.dialect);
      this.#take(frame);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#refuse(error.cause, error.streamId);
    }
  }

  #take(frame: Frame): void {
    try {
      if (frame.kind === 'cancel') this.#lanes.stop(frame.streamId);
      else this.#lanes.add(frame);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      this.#refuse(error, frame.streamId);
    }
  }

  /** Answers a frame that starts no work. */
  #refuse(error: AppError, streamId: StreamId): void {
    const record = this.#record();
    const sent = this.#fail(record, error, streamId).catch(() => undefined);
    record.end();
    if (this.#socket.bufferedAmount <= MAX_UNSENT_BYTES || this.#socket.isPaused) return;
    this.#socket.pause();
    void sent.then(() => {
      this.#socket.resume();
    });
  }

  async #answer(frame: Frame, stopSignal: AbortSignal): Promise<void> {
    const { streamId } = frame;
    const requestId = chooseRequestId(undefined);
    const record = this.#record(requestId);
    const call: Call = {
      requestId,
      signal: this.#left.signal,
      stopSignal,
      record,
      pruningHeader: this.#options.pruningHeader,
      client: this.#options.client,
      onEnd: (release) => {
        record.onEnd(release);
      },
    };
    try {
      const generation = await this.#operation.prepare(frame.body, call);
      for await (const object of generation.stream()) await this.#send(inLane(object, streamId));
      const { doneType } = this.#options.dialect;
      const { ignoredFields } = generation;
      const ignored = ignoredFields.length === 0 ? {} : { ignored_fields: ignoredFields };
      if (doneType !== null) await this.#send({ ...inLane({ type: doneType }, streamId), ...ignored });
    } catch (error) {
      if (error instanceof ClientGoneError) record.wasCancelled = true;
      else
        await this.#fail(record, toAppError(error, this.#context.logger, requestId), streamId).catch(
          () => undefined,
        );
    } finally {
      record.end();
    }
  }

  #fail(record: RequestRecord, error: AppError, streamId: StreamId): Promise<void> {
    record.error = error.label;
    return this.#send({
      ...inLane({ type: 'error', status: error.status }, streamId),
      error: error.toBody(),
    });
  }

  /** A record that ends in a log line and the counts, as that of an HTTP request. */
  #record(requestId = chooseRequestId(undefined)): RequestRecord {
    const record = new RequestRecord();
    const { path, traceHeaders } = this.#options;
    this.#context.tracing?.watch(record, { requestId, path, method: null }, traceHeaders);
    record.onEnd(() => {
      this.#context.logger.info({ method: 'WS', path, ...logFields(record), requestId }, 'request');
      countFailure(this.#context, record);
    });
    return record;
  }

  /** Settles when the bytes are on their way, so that a slow reader pauses what it reads. @throws ClientGoneError */
  #send(object: object): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(JSON.stringify(object), (error) => {
        if (error == null) {
          resolve();
          return;
        }
        this.#leave();
        reject(new ClientGoneError('the client closed the connection'));
      });
    });
  }
}

function inLane(object: object, streamId: StreamId): object {
  return streamId === null ? object : { ...object, stream_id: streamId };
}
