import { queryOptions } from '@tanstack/react-query';

import { get } from '../../api/client';

export interface Interval {
  value: number;
  low: number;
  high: number;
}

export interface Difference extends Interval {
  p: number;
  significant: boolean;
}

export interface Result {
  metrics: Record<string, Interval>;
  base?: Record<string, Interval>;
  difference?: Record<string, Difference>;
  count: number;
}

export interface Evaluation {
  eval_id: string;
  status: string;
  progress: number;
  model_name: string;
  base_model: string;
  adapter: string | null;
  label: string | null;
  compare: boolean;
  asked_metrics: string[];
  lower_is_better: string[];
  max_tokens: number;
  details: Result | Record<string, never>;
  sample_count: number;
  done: number;
  total: number;
  verdict: string | null;
  created_at: string;
  completed_at: string | null;
  error: string | null;
}

/** What one model did with a question. */
export interface Said {
  output?: string;
  finish?: string;
  scores: Record<string, number>;
}

export interface Row extends Said {
  index: number;
  prompt: { role: string; content: string }[];
  expected: string;
  base?: Said;
}

/** Whether an evaluation can still change. */
export const live = (found: { status: string }): boolean => found.status === 'queued' || found.status === 'running';

const every = (busy: boolean): number => (busy ? 1_000 : 5_000);

export const evaluationsQuery = (language: string) =>
  queryOptions({
    queryKey: ['evaluations', language],
    queryFn: ({ signal }) => get<{ history: Evaluation[] }>('/evaluate/history?limit=1000', signal),
    refetchInterval: (query) => every(query.state.data?.history.some(live) ?? false),
  });

export const evaluationQuery = (id: string, language: string) =>
  queryOptions({
    queryKey: ['evaluation', id, language],
    queryFn: ({ signal }) => get<Evaluation>(`/evaluate/details/${encodeURIComponent(id)}`, signal),
    refetchInterval: (query) => {
      const found = query.state.data;
      return found && !live(found) ? false : every(found !== undefined);
    },
  });

export const rowsQuery = (id: string) =>
  queryOptions({
    queryKey: ['evaluation rows', id],
    queryFn: ({ signal }) => get<{ rows: Row[] }>(`/evaluate/outputs/${encodeURIComponent(id)}?limit=10000`, signal),
    staleTime: Infinity, // an evaluation that has ended never changes
  });

/** What was measured with, where it is known: evaluations made by the document's own path name the model instead. */
export const datasetOf = (found: Evaluation): string | null =>
  found.label && found.label !== found.model_name ? found.label : null;
