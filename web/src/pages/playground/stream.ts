import { Failure, said } from '../../api/client';
import { events } from '../../api/events';
import type { components, paths } from '../../api/schema/openai';
import { answer, api } from '../../api/typed';

/** What one event of an answer tells. */
export interface Heard {
  spoke?: string;
  text?: string;
  finish?: string;
  tokens?: number;
}

/** What is asked of a model; that it is to be streamed goes without saying. */
export type Asked = components['schemas']['ChatBody'];
type Event = paths['/v1/chat/completions']['post']['responses'][200]['content']['text/event-stream'];
type Chunk = Exclude<Event, { error: unknown }>;

/** The answer to a body of `POST /v1/chat/completions`, as it is written.
 * @throws Failure where the server refuses or fails, or the stream ends before the answer does (status 0).
 */
export async function* answering(body: Asked, signal: AbortSignal): AsyncGenerator<Heard> {
  const stream = await answer(api.POST('/v1/chat/completions', {
    body: { ...body, stream: true, stream_options: { include_usage: true } }, signal, parseAs: 'stream',
  }));
  if (!stream) throw new Failure(0, '');
  for await (const { data } of events(stream)) {
    if (data === '[DONE]') return;
    const event = JSON.parse(data) as Event;
    if ('error' in event) throw new Failure(500, said(event.error) ?? '', event);
    yield heard(event);
  }
  throw new Failure(0, '');
}

function heard(chunk: Chunk): Heard {
  const found: Heard = {};
  const [choice] = chunk.choices;
  found.spoke = chunk.model;
  if (choice?.delta.content) found.text = choice.delta.content;
  if (choice?.finish_reason) found.finish = choice.finish_reason;
  if (chunk.usage) found.tokens = chunk.usage.completion_tokens;
  return found;
}
