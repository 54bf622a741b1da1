/** Whether the server takes work: not while the model loads, not while the server drains. */
import { AppError } from '../errors.ts';
import type { LoadedModel } from './model.ts';

export class Lifecycle {
  #model: LoadedModel | null = null;
  #isDraining = false;

  setReady(model: LoadedModel): void {
    this.#model = model;
  }

  startDraining(): void {
    this.#isDraining = true;
  }

  /** The model, or null while it loads. */
  get loaded(): LoadedModel | null {
    return this.#model;
  }

  /** The model, for reading what it is. @throws AppError `model_loading` */
  get model(): LoadedModel {
    if (this.#model === null) throw new AppError('model_loading', 'the model is still loading');
    return this.#model;
  }

  /** The model, for new work. @throws AppError `model_loading` also while the engine restarts, `draining` */
  admit(): LoadedModel {
    if (this.#isDraining) throw new AppError('draining', 'the server is shutting down and takes no new work');
    const { model } = this;
    if (!model.engine.isReady)
      throw new AppError('model_loading', 'the engine is restarting, try again shortly');
    return model;
  }
}
