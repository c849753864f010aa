import { queryOptions } from '@tanstack/react-query';

import { get } from '../../api/client';

export interface Run {
  task_id: string;
  status: string;
  progress: number;
  current_epoch: number;
  total_epochs: number;
  current_step: number;
  total_steps: number;
  loss: number | null;
  learning_rate: number | null;
  tokens_per_second: number | null;
  seconds_left: number | null;
  seconds_silent: number | null;
  base_model: string;
  dataset_path: string;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  output_dir: string;
  error: string | null;
  executor: string;
  owner: string;
  cancel_requested: boolean;
  objective: string;
}

export interface RunInFull extends Run {
  stage: string | null;
  memory_bytes: number | null;
  adapter: string | null;
  resumable: boolean;
  data: string | null;
  validation_loss: number | null;
  best_step: number | null;
  control: { before: number | null; after: number | null } | null;
  figures: Record<string, number>;
  took_seconds: number | null;
  predicted_seconds: number | null;
  request: Record<string, unknown>;
  command: string;
}

export interface Parameter {
  name: string;
  kind: string;
  default: unknown;
  minimum: number | null;
  maximum: number | null;
  choices: string[];
  description: string;
}

export interface Plan {
  fits: boolean;
  message: string;
  measured: boolean;
  note: string | null;
  total_steps: number;
  samples: number;
  skipped: number;
  total_tokens: number;
  trained_tokens: number;
  cut_samples: number;
  seconds: number;
  tokens_per_second: number;
  device: string;
  memory: { needed_bytes: number; free_bytes: number };
  disk: { needed_bytes: number; free_bytes: number };
  remedies: { changes: Record<string, unknown>; memory_bytes: number; message: string }[];
}

/** Whether a run can still change. */
export const live = (run: { status: string }): boolean => run.status === 'queued' || run.status === 'running';

// slower and steadily on where the server does not answer, so that the page comes back with it
const every = (busy: boolean): number => (busy ? 1_000 : 5_000);

export const runsQuery = queryOptions({
  queryKey: ['runs'],
  queryFn: ({ signal }) => get<{ runs: Run[] }>('/train/runs?limit=1000', signal),
  refetchInterval: (query) => every(query.state.data?.runs.some(live) ?? false),
});

export const runQuery = (id: string, language: string) =>
  queryOptions({
    queryKey: ['run', id, language],
    queryFn: ({ signal }) => get<RunInFull>(`/train/runs/${encodeURIComponent(id)}`, signal),
    refetchInterval: (query) => every(query.state.data ? live(query.state.data) : false),
  });

export const parametersQuery = (base: string, language: string) =>
  queryOptions({
    queryKey: ['parameters', base, language],
    queryFn: ({ signal }) =>
      get<{ parameters: Parameter[] }>(`/train/parameters?base_model=${encodeURIComponent(base)}`, signal),
    enabled: base !== '',
    staleTime: 60_000,
  });

/** Where a run executes, for people. */
export function executorName(executor: string): string | null {
  if (executor === 'local') return null;
  return { together_ai: 'Together AI', fireworks_ai: 'Fireworks AI' }[executor] ?? executor;
}

/** The last part of a name under home: what people know an adapter or a dataset by. */
export const lastPart = (name: string): string => name.split('/').filter(Boolean).pop() ?? name;
