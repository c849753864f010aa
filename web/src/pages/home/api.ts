import { queryOptions } from '@tanstack/react-query';

import { Failure, said } from '../../api/client';
import { events } from '../../api/events';
import type { components as ChatGateway, paths } from '../../api/schema/chat_gateway';
import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Schemas = components['schemas'];
export type Samples = Schemas['Samples'];
export type Task = Schemas['TrainingTask'];
export type Measured = Schemas['EvaluationDetails'];
/** A turn that the server keeps. */
export type KeptTurn = ChatGateway['schemas']['TurnShown'];
type Send = paths['/api/chat/send']['post'];
type Question = Send['requestBody']['content']['application/json'];
type Chunk = Send['responses'][200]['content']['text/event-stream'];

export const active = (status: string): boolean => status === 'queued' || status === 'running';

const BUSY_MS = 1_000;
const QUIET_MS = 5_000;

export const samples = queryOptions({
  queryKey: ['samples'],
  queryFn: ({ signal }) => answer(api.GET('/samples', { signal })),
});

/** Runs, the newest first; asked for more often while one runs. */
export const tasks = queryOptions({
  queryKey: ['home', 'tasks'],
  queryFn: async ({ signal }) => (await answer(api.GET('/train/history', { params: { query: { limit: 200 } }, signal }))).history,
  refetchInterval: (query) => (query.state.data?.some((task) => active(task.status)) ? BUSY_MS : QUIET_MS),
});

/** Evaluations, the newest first. */
export const measured = queryOptions({
  queryKey: ['home', 'evaluations'],
  queryFn: async ({ signal }) => (await answer(api.GET('/evaluate/history', { params: { query: { limit: 20 } }, signal }))).history,
  refetchInterval: (query) => (query.state.data?.some((each) => active(each.status)) ? BUSY_MS : QUIET_MS),
});

export const library = queryOptions({
  queryKey: ['home', 'library'],
  queryFn: ({ signal }) => answer(api.GET('/library', { signal })),
  refetchInterval: QUIET_MS,
});

/** Steps and losses of a run so far. */
export const losses = (id: string, running: boolean) =>
  queryOptions({
    queryKey: ['home', 'losses', id],
    queryFn: async ({ signal }) =>
      (await answer(api.GET('/train/metrics/{task_id}', { params: { path: { task_id: id } }, signal }))).training,
    refetchInterval: running ? 2_000 : false,
  });

/** The ids of kept conversations, those changed last first. */
export const conversations = queryOptions({
  queryKey: ['home', 'conversations'],
  queryFn: async ({ signal }) => {
    const found = await answer(api.GET('/api/chat/conversations', { params: { query: { limit: 1000 } }, signal }));
    return found.conversations
      .sort((one, other) => other.created_at.localeCompare(one.created_at))
      .map((each) => each.conversation_id);
  },
});

/** The first turn of a kept conversation. */
export const kept = (id: string) =>
  queryOptions({
    queryKey: ['home', 'conversation', id],
    queryFn: async ({ signal }) =>
      (await answer(api.GET('/api/chat/conversations/{conversation_id}', { params: { path: { conversation_id: id } }, signal })))
        .messages[0] ?? null,
    // another tab, or this one before a reload, may be asking still
    refetchInterval: (query) => (query.state.data?.state === 'running' ? BUSY_MS : false),
  });

/** Ask a model of this machine; the server keeps question and answer under `id`.
 * @throws Failure where it cannot answer; status 0 where the connection breaks off.
 */
export async function* asked(model: string, message: string, id: string): AsyncGenerator<string> {
  const body: Question = { service: 'local', model, message, conversation_id: id, temperature: 0, max_tokens: 64 };
  const stream = await answer(api.POST('/api/chat/send', { body, parseAs: 'stream' }));
  if (!stream) throw new Failure(0, '');
  for await (const { data } of events(stream)) {
    const chunk = JSON.parse(data) as Chunk;
    if ('error' in chunk) throw new Failure(chunk.code, said(chunk) ?? '', chunk);
    if (chunk.message.content) yield chunk.message.content;
    if (chunk.done) return;
  }
  throw new Failure(0, '');
}
