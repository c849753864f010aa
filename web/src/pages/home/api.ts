import { queryOptions } from '@tanstack/react-query';

import { Failure, get, said, send } from '../../api/client';
import { events } from '../../api/events';

export interface Samples {
  installed: boolean;
  files: { role: string; dataset_path: string; rows: number; installed: boolean }[];
  examples: { language: string; question: string; answer: string }[];
  questions: { language: string; question: string; expected: string }[];
  train: { base_model: string; dataset_path: string; num_epochs: number; lora_r: number } & Record<string, unknown>;
}

export interface Task {
  task_id: string;
  status: string;
  progress: number;
  current_step: number;
  total_steps: number;
  loss: number | null;
  tokens_per_second: number | null;
  seconds_left: number | null;
  base_model: string;
  dataset_path: string;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  output_dir: string;
  error: string | null;
}

export interface Measured {
  eval_id: string;
  status: string;
  progress: number;
  model_name: string;
  created_at: string;
  completed_at: string | null;
}

export interface Library {
  bases: { name: string; context_length: number; description: string }[];
  adapters: { name: string; base_model: string; created_at: string; aliases: string[] }[];
  loaded: { name: string; base_model: string; lora_adapter: string | null; is_current: boolean }[];
}

/** A turn that the server keeps. */
export interface KeptTurn {
  message: string;
  response: string;
  state: string;
}

export const active = (status: string): boolean => status === 'queued' || status === 'running';

const BUSY_MS = 1_000;
const QUIET_MS = 5_000;

export const samples = queryOptions({
  queryKey: ['samples'],
  queryFn: ({ signal }) => get<Samples>('/samples', signal),
});

/** Runs, the newest first; asked for more often while one runs. */
export const tasks = queryOptions({
  queryKey: ['home', 'tasks'],
  queryFn: async ({ signal }) => (await get<{ history: Task[] }>('/train/history?limit=200', signal)).history,
  refetchInterval: (query) => (query.state.data?.some((task) => active(task.status)) ? BUSY_MS : QUIET_MS),
});

/** Evaluations, the newest first. */
export const measured = queryOptions({
  queryKey: ['home', 'evaluations'],
  queryFn: async ({ signal }) => (await get<{ history: Measured[] }>('/evaluate/history?limit=20', signal)).history,
  refetchInterval: (query) => (query.state.data?.some((each) => active(each.status)) ? BUSY_MS : QUIET_MS),
});

export const library = queryOptions({
  queryKey: ['home', 'library'],
  queryFn: ({ signal }) => get<Library>('/library', signal),
  refetchInterval: QUIET_MS,
});

/** Steps and losses of a run so far. */
export const losses = (id: string, running: boolean) =>
  queryOptions({
    queryKey: ['home', 'losses', id],
    queryFn: async ({ signal }) =>
      (await get<{ training: { step: number[]; loss: (number | null)[] } }>(`/train/metrics/${id}`, signal)).training,
    refetchInterval: running ? 2_000 : false,
  });

/** The ids of kept conversations, those changed last first. */
export const conversations = queryOptions({
  queryKey: ['home', 'conversations'],
  queryFn: async ({ signal }) => {
    const path = '/api/chat/conversations?limit=1000';
    const found = await get<{ conversations: { conversation_id: string; created_at: string }[] }>(path, signal);
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
      (await get<{ messages: KeptTurn[] }>(`/api/chat/conversations/${id}`, signal)).messages[0] ?? null,
    // another tab, or this one before a reload, may be asking still
    refetchInterval: (query) => (query.state.data?.state === 'running' ? BUSY_MS : false),
  });

/** Ask a model of this machine; the server keeps question and answer under `id`.
 * @throws Failure where it cannot answer; status 0 where the connection breaks off.
 */
export async function* asked(model: string, message: string, id: string): AsyncGenerator<string> {
  const response = await send('/api/chat/send', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ service: 'local', model, message, conversation_id: id, temperature: 0, max_tokens: 64 }),
  });
  if (!response.body) throw new Failure(0, '');
  for await (const { data } of events(response.body)) {
    const chunk = JSON.parse(data) as { message?: { content?: string }; done?: boolean; error?: boolean; code?: number };
    if (chunk.error) throw new Failure(chunk.code ?? 500, said(chunk) ?? '', chunk);
    if (chunk.message?.content) yield chunk.message.content;
    if (chunk.done) return;
  }
  throw new Failure(0, '');
}
