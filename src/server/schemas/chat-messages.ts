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

const instructions = z.object({ role: z.enum(['system', 'developer', 'user']), content });
const assistant = z.object({
  role: z.literal('assistant'),
  content: content.nullish(),
  tool_calls: z.unknown().optional(),
});
const toolResult = z.object({ role: z.enum(['tool', 'function']) });

const chatMessage = z.discriminatedUnion('role', [instructions, assistant, toolResult], {
  error: (issue) =>
    typeof issue.input === 'object'
      ? 'expected one of "system", "developer", "user", "assistant"'
      : 'expected a message with role and content',
});

export const chatMessages = z.array(chatMessage).min(1);

export type ChatMessageInput = z.infer<typeof chatMessage>;
