/** The models of the server by name, and whether it takes work: not while they load, not while it drains. */
import { AppError } from '../errors.ts';
import type { LoadedModel } from './model.ts';
import type { Call } from './operation.ts';
import type { ServedModel } from './served-model.ts';

export class ModelPool {
  readonly models: readonly ServedModel[];
  /** Of requests that name none; null = they must. */
  readonly #byDefault: ServedModel | null;
  #isDraining = false;

  /** @param defaultId name of the model for requests without one; by default the only one, if there is one only */
  constructor(models: readonly ServedModel[], defaultId: string | null = null) {
    this.models = models;
    const [first = null] = models;
    this.#byDefault = models.find(({ id }) => id === defaultId) ?? (models.length === 1 ? first : null);
  }

  /** Loads what is to be there from the start, one after the other. @throws AppError `startup` */
  async load(): Promise<void> {
    for (const model of this.models) if (model.loadsAtStart) await model.load();
  }

  startDraining(): void {
    this.#isDraining = true;
  }

  /** @throws AppError `draining`, `model_loading` */
  checkOpen(): void {
    if (this.#isDraining) throw new AppError('draining', 'the server is shutting down and takes no new work');
    this.checkLoaded();
  }

  /** @throws AppError `model_loading` while a model that loads at the start is not there */
  checkLoaded(): void {
    if (this.models.some((model) => model.loadsAtStart && !model.wasLoaded))
      throw new AppError('model_loading', 'the model is still loading');
  }

  /** @throws AppError `draining`, `model_loading` also while an engine restarts */
  checkReady(): void {
    this.checkOpen();
    if (this.models.some((model) => model.isLoaded && !model.isReady))
      throw new AppError('model_loading', 'the engine is restarting, try again shortly');
  }

  /** @throws AppError `model_not_found`, `invalid_request` when none is named and there are several */
  find(name: string | null | undefined): ServedModel {
    const known = this.models.map(({ id }) => JSON.stringify(id)).join(', ');
    if (name === null || name === undefined) {
      if (this.#byDefault !== null) return this.#byDefault;
      throw new AppError('invalid_request', `model: expected one of ${known}, got nothing`, {
        param: 'model',
      });
    }
    const found = this.models.find(({ id }) => id === name);
    if (found !== undefined) return found;
    const shown = JSON.stringify(name.slice(0, 200));
    throw new AppError('model_not_found', `the model ${shown} does not exist; this server has ${known}`, {
      param: 'model',
    });
  }

  /**
   * The model for a call that is new work.
   * @throws AppError `draining`, `model_loading`, and as `find`
   */
  async acquire(name: string | null | undefined, call: Call): Promise<LoadedModel> {
    this.checkOpen();
    const model = this.find(name);
    call.record.model = model.id;
    return model.acquire(call);
  }

  /** What requests without a resolved model are counted under: the default's name, or none. */
  get defaultId(): string {
    return this.#byDefault?.id ?? '';
  }

  async close(): Promise<void> {
    await Promise.all(this.models.map((model) => model.unload()));
  }
}
