/** The body of `POST /v1/responses`; other fields are accepted and named in a reply header. */
import { z } from 'zod';
import { onlyOff, samplingFields } from './fields.ts';
import { textFormat } from './response-format.ts';
import { responseInput } from './response-items.ts';
import { responseToolFields } from './response-tools.ts';

/** What OpenAI lets one ask for beside the response; all but the first concern what never occurs here. */
const includable = z.enum([
  'message.output_text.logprobs',
  'reasoning.encrypted_content',
  'file_search_call.results',
  'web_search_call.results',
  'web_search_call.action.sources',
  'message.input_image.image_url',
  'computer_call_output.output.image_url',
  'code_interpreter_call.outputs',
]);

/** Most pairs, and most characters of a name and of a value. */
const METADATA = { pairs: 16, name: 64, value: 512 };

const metadata = z
  .record(z.string().min(1).max(METADATA.name), z.string().max(METADATA.value))
  .refine((pairs) => Object.keys(pairs).length <= METADATA.pairs, `expected at most ${METADATA.pairs} pairs`);

// One choice, no legacy options of streams, and progress has no event that clients of this route would understand.
const sampling = z.object(samplingFields).omit({ n: true, stream_options: true, return_progress: true });

export const responseBody = z.object({
  ...sampling.shape,
  input: responseInput.nullish(),
  instructions: z.string().nullish(),
  previous_response_id: z.string().nullish(),
  store: z.boolean().nullish(),
  stream_options: z.object({ include_obfuscation: z.boolean().nullish() }).nullish(),
  max_output_tokens: z.int().min(1).nullish(),
  include: z.array(includable).max(64).nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  metadata: metadata.nullish(),
  text: z.object({ format: textFormat.nullish() }).nullish(),
  ...responseToolFields,
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  truncation: z.enum(['auto', 'disabled']).nullish(),
  background: onlyOff(false),
  conversation: onlyOff(),
  prompt: onlyOff(),
  context_management: onlyOff(),
});

export type ResponseBody = z.infer<typeof responseBody>;
