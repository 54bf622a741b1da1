/** Chat messages as clients send them: a role, and text or text parts. */
import { z } from 'zod';

const textPart = z.object({ type: z.literal('text'), text: z.string() });

const imagePart = z.object({
  type: z.literal('image_url'),
  image_url: z.object({ url: z.string(), detail: z.string().nullish() }),
});

/** Parts that OpenAI defines and that no loaded model can read yet: known here so that the refusal can name them. */
const mediaPart = z.object({ type: z.enum(['input_audio', 'file', 'video_url', 'audio_url']) });

const contentPart = z.discriminatedUnion('type', [textPart, imagePart, mediaPart], {
  error: 'expected a content part with type "text"',
});

const content = z.union([z.string(), z.array(contentPart).min(1)], {
  error: (issue) =>
    Array.isArray(issue.input)
      ? 'expected a list of content parts, each {"type":"text","text":"..."}'
      : 'expected a string or a list of content parts',
});

/** As the model made it: only the model's template says which names and arguments are good. */
const toolCall = z.object({
  id: z.string().min(1),
  type: z.literal('function'),
  function: z.object({ name: z.string().min(1), arguments: z.string() }),
});

const instructions = z.object({ role: z.enum(['system', 'developer', 'user']), content });
const assistant = z.object({
  role: z.literal('assistant'),
  content: content.nullish(),
  reasoning_content: z.string().nullish(),
  tool_calls: z.array(toolCall).nullish(),
});
const toolResult = z.object({
  role: z.literal('tool'),
  content,
  tool_call_id: z.string().min(1),
  name: z.string().nullish(),
});

const chatMessage = z.discriminatedUnion('role', [instructions, assistant, toolResult], {
  error: (issue) =>
    typeof issue.input === 'object'
      ? 'expected one of "system", "developer", "user", "assistant", "tool"'
      : 'expected a message with role and content',
});

export const chatMessages = z.array(chatMessage).min(1);

export type ChatMessageInput = z.infer<typeof chatMessage>;
