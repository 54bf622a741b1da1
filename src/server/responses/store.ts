/** Remembers responses, so that later requests can continue them; bounded, the ones not used for longest go first. */
import type { ConversationItem } from '../schemas/response-items.ts';
import type { OutputItem } from './output-items.ts';

/** One response's own part of a conversation; conversations that share a beginning share its turns. */
export interface Turn {
  readonly input: readonly ConversationItem[];
  readonly output: readonly OutputItem[];
}

export interface StoredResponse {
  readonly id: string;
  /** Whose key it came with; null = no keys are configured. */
  readonly client: string | null;
  /** The whole conversation, this response's turn last. */
  readonly turns: readonly Turn[];
}

export interface ResponseMemory {
  /** Null when it is unknown, forgotten or another client's. */
  get(id: string, client: string | null): StoredResponse | null;
  /** An item of a remembered response's output. */
  item(id: string, client: string | null): OutputItem | null;
  /** @param isStored whether it is for everyone with the client's key: the request's `store` */
  add(response: StoredResponse, isStored: boolean): void;
}

/** Of a turn in a list, and of a response in the tables. */
const REFERENCE_BYTES = 8;
const RESPONSE_BYTES = 256;

interface HeldTurn {
  readonly bytes: number;
  numHolders: number;
}

export class ResponseStore implements ResponseMemory {
  readonly #maxBytes: number;
  /** Least recently used first. */
  readonly #responses = new Map<string, StoredResponse>();
  readonly #turns = new Map<Turn, HeldTurn>();
  readonly #items = new Map<string, { readonly item: OutputItem; readonly client: string | null }>();
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** What all remembered responses take, shared turns counted once. */
  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#responses.size;
  }

  get(id: string, client: string | null): StoredResponse | null {
    const found = this.#responses.get(id);
    if (found === undefined || found.client !== client) return null;
    this.#responses.delete(id);
    this.#responses.set(id, found);
    return found;
  }

  item(id: string, client: string | null): OutputItem | null {
    const found = this.#items.get(id);
    return found === undefined || found.client !== client ? null : found.item;
  }

  add(response: StoredResponse, isStored: boolean): void {
    if (!isStored) return;
    this.#responses.set(response.id, response);
    this.#bytes += ownBytes(response);
    for (const turn of response.turns) this.#hold(turn, response.client);
    for (const oldest of this.#responses.values()) {
      if (this.#bytes <= this.#maxBytes) return;
      this.#forget(oldest);
    }
  }

  #forget(response: StoredResponse): void {
    this.#responses.delete(response.id);
    this.#bytes -= ownBytes(response);
    for (const turn of response.turns) this.#letGo(turn);
  }

  #hold(turn: Turn, client: string | null): void {
    const held = this.#turns.get(turn);
    if (held !== undefined) {
      held.numHolders++;
      return;
    }
    const bytes = turnBytes(turn);
    this.#turns.set(turn, { bytes, numHolders: 1 });
    this.#bytes += bytes;
    for (const item of turn.output) this.#items.set(item.id, { item, client });
  }

  #letGo(turn: Turn): void {
    const held = this.#turns.get(turn);
    if (held === undefined || --held.numHolders > 0) return;
    this.#turns.delete(turn);
    this.#bytes -= held.bytes;
    for (const item of turn.output) this.#items.delete(item.id);
  }
}

/** What one connection remembers beside the store: also responses that nobody else may continue. */
export class ConnectionMemory implements ResponseMemory {
  readonly #own: ResponseStore;
  readonly #shared: ResponseMemory;

  constructor(shared: ResponseMemory, maxBytes: number) {
    this.#own = new ResponseStore(maxBytes);
    this.#shared = shared;
  }

  get(id: string, client: string | null): StoredResponse | null {
    return this.#own.get(id, client) ?? this.#shared.get(id, client);
  }

  item(id: string, client: string | null): OutputItem | null {
    return this.#own.item(id, client) ?? this.#shared.item(id, client);
  }

  add(response: StoredResponse, isStored: boolean): void {
    this.#own.add(response, true);
    this.#shared.add(response, isStored);
  }
}

function ownBytes({ turns }: StoredResponse): number {
  return RESPONSE_BYTES + turns.length * REFERENCE_BYTES;
}

/** Two bytes a character, as strings beyond Latin-1 take; what JSON adds stands for the objects around them. */
function turnBytes(turn: Turn): number {
  return 2 * JSON.stringify(turn).length;
}
