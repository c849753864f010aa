import { Failure, said, send } from '../../api/client';
import { events } from '../../api/events';

/** What one event of an answer tells. */
export interface Heard {
  spoke?: string;
  text?: string;
  finish?: string;
  tokens?: number;
}

interface Chunk {
  model?: string;
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: { completion_tokens?: number } | null;
  error?: unknown;
}

/** The answer to a body of `POST /v1/chat/completions`, as it is written.
 * @throws Failure where the server refuses or fails, or the stream ends before the answer does (status 0).
 */
export async function* answering(body: Record<string, unknown>, signal: AbortSignal): AsyncGenerator<Heard> {
  const response = await send('/v1/chat/completions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.body) throw new Failure(0, '');
  for await (const { data } of events(response.body)) {
    if (data === '[DONE]') return;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Failure(500, said(chunk.error) ?? '', chunk);
    yield heard(chunk);
  }
  throw new Failure(0, '');
}

function heard(chunk: Chunk): Heard {
  const found: Heard = {};
  const [choice] = chunk.choices ?? [];
  if (chunk.model) found.spoke = chunk.model;
  if (choice?.delta?.content) found.text = choice.delta.content;
  if (choice?.finish_reason) found.finish = choice.finish_reason;
  if (chunk.usage?.completion_tokens !== undefined) found.tokens = chunk.usage.completion_tokens;
  return found;
}
