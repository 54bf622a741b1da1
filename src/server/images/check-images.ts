/** Checks the images of a request before anything is done with it. */
import type { ChatMessageInput } from '../schemas/chat-messages.ts';
import type { InputItem } from '../schemas/response-items.ts';
import type { ImageSource } from './image-source.ts';

/** @throws AppError as `ImageSource.check`, naming the part's URL */
export function checkMessageImages(messages: readonly ChatMessageInput[], images: ImageSource): void {
  for (const [i, message] of messages.entries()) {
    if (!('content' in message) || !Array.isArray(message.content)) continue;
    for (const [j, part] of message.content.entries())
      if (part.type === 'image_url')
        images.check(part.image_url.url, `messages[${i}].content[${j}].image_url.url`);
  }
}

/** @throws AppError as `ImageSource.check`, naming the part's URL */
export function checkInputImages(input: string | readonly InputItem[], images: ImageSource): void {
  if (typeof input === 'string') return;
  for (const [i, item] of input.entries()) {
    const field = item.type === 'function_call_output' ? 'output' : 'content';
    const content = 'output' in item ? item.output : 'role' in item ? item.content : [];
    if (typeof content === 'string') continue;
    for (const [j, part] of content.entries())
      if (part.type === 'input_image' && typeof part.image_url === 'string')
        images.check(part.image_url, `input[${i}].${field}[${j}].image_url`);
  }
}
