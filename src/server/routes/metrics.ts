/** `GET /metrics`: the Prometheus text format, also while the model loads or the server drains. */
import type { AppContext } from '../context.ts';
import type { Metrics } from '../metrics.ts';

export function showMetrics(metrics: Metrics) {
  return async (c: AppContext): Promise<Response> => {
    const text = await metrics.render();
    return c.body(text, 200, { 'content-type': metrics.contentType });
  };
}
