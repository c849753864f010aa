import { queryOptions } from '@tanstack/react-query';

import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Schemas = components['schemas'];
export type Run = Schemas['ListedRun'];
export type RunInFull = Schemas['RunInFull'];
export type Parameter = Schemas['TrainingParameter'];
export type Plan = Schemas['TrainingPlan'];
/** The body of `POST /train`, and what one of its fields may hold. */
export type Body = Schemas['TrainRequest'];
export type Setting = Parameter['default'];

/** Whether a run can still change. */
export const live = (run: { status: string }): boolean => run.status === 'queued' || run.status === 'running';

// slower and steadily on where the server does not answer, so that the page comes back with it
const every = (busy: boolean): number => (busy ? 1_000 : 5_000);

export const runsQuery = queryOptions({
  queryKey: ['runs'],
  queryFn: ({ signal }) => answer(api.GET('/train/runs', { params: { query: { limit: 1000 } }, signal })),
  refetchInterval: (query) => every(query.state.data?.runs.some(live) ?? false),
});

export const runQuery = (id: string, language: string) =>
  queryOptions({
    queryKey: ['run', id, language],
    queryFn: ({ signal }) => answer(api.GET('/train/runs/{task_id}', { params: { path: { task_id: id } }, signal })),
    refetchInterval: (query) => every(query.state.data ? live(query.state.data) : false),
  });

export const parametersQuery = (base: string, language: string) =>
  queryOptions({
    queryKey: ['parameters', base, language],
    queryFn: ({ signal }) =>
      answer(api.GET('/train/parameters', { params: { query: { base_model: base } }, signal })),
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
