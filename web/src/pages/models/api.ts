import { useMutation, useQuery, useQueryClient, type UseQueryResult } from '@tanstack/react-query';

import { carries, Failure } from '../../api/client';
import type { components as Finetune } from '../../api/schema/finetune';
import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Schemas = components['schemas'];
export type Base = Schemas['LibraryBase'];
export type Adapter = Schemas['LibraryAdapter'];
export type Library = Schemas['Library'];
export type Alias = Schemas['AliasShown'];
export type Move = Schemas['AliasMove'];
/** A job that was trained at a provider. */
export type Hosted = Finetune['schemas']['JobShown'];

const OFTEN = 10_000; // ms: two tabs agree

export function useLibrary(): UseQueryResult<Library> {
  return useQuery({
    queryKey: ['library'], queryFn: ({ signal }) => answer(api.GET('/library', { signal })), refetchInterval: OFTEN,
  });
}

export function useAliases(): UseQueryResult<Alias[]> {
  return useQuery({
    queryKey: ['aliases'],
    queryFn: async ({ signal }) => (await answer(api.GET('/aliases', { signal }))).aliases,
    refetchInterval: OFTEN,
  });
}

export function useMoves(name: string, enabled: boolean): UseQueryResult<Move[]> {
  return useQuery({
    queryKey: ['aliases', name],
    queryFn: async ({ signal }) =>
      (await answer(api.GET('/aliases/{name}', { params: { path: { name } }, signal }))).history,
    enabled,
  });
}

/** What was trained at a provider, and is asked for as `hosted/<id>`. */
export function useHosted(): UseQueryResult<Hosted[]> {
  return useQuery({
    queryKey: ['finetune', 'jobs', 'hosted'],
    queryFn: async ({ signal }) => {
      const { jobs } = await answer(api.GET('/api/finetune/jobs', { signal }));
      return jobs.filter((each) => each.provider.toUpperCase() !== 'LOCAL' && each.status === 'completed');
    },
    refetchInterval: 30_000,
  });
}

/** Does something to models and looks at all of them again. */
export function useChange<T>(act: (given: T) => Promise<unknown>) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSettled: () => Promise.all(
      [['library'], ['aliases'], ['v1', 'models']].map((queryKey) => queries.invalidateQueries({ queryKey })),
    ),
  });
}

export const load = (model: Base | Adapter) => answer(api.POST('/models/load', {
  body: 'base_model' in model
    ? { model_name: model.name, model_path: model.base_model, lora_adapter: model.name }
    : { model_name: model.name },
}));
export const unload = (model_name: string) => answer(api.POST('/models/unload', { params: { query: { model_name } } }));
export const makeCurrent = (model_name: string) => answer(api.POST('/models/switch', { params: { query: { model_name } } }));
export const describe = (name: string, description: string) => answer(api.PATCH('/library', { body: { name, description } }));
export const rollBack = (name: string) => answer(api.POST('/aliases/{name}/rollback', { params: { path: { name } } }));
export const unalias = (name: string) => answer(api.DELETE('/aliases/{name}', { params: { path: { name } } }));
export const removeModel = (name: string) => answer(api.DELETE('/v1/models/{name}', { params: { path: { name } } }));

export interface Promotion {
  alias: string;
  adapter: string;
  test: string | null;
  force: boolean;
}

export const promote = ({ alias, ...body }: Promotion) =>
  answer(api.POST('/aliases/{name}', { params: { path: { name: alias } }, body }));

/** Have the browser keep the adapter as a zip. */
export async function download(name: string): Promise<void> {
  if (!carries()) {
    follow(`/library/download?name=${encodeURIComponent(name)}`);
    return;
  }
  // a link carries no token
  const kept = await answer(api.GET('/library/download', { params: { query: { name } }, parseAs: 'blob' }));
  const address = URL.createObjectURL(kept);
  follow(address, `${name.split('/').pop() ?? 'adapter'}.zip`);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function follow(address: string, called = ''): void {
  const link = document.createElement('a');
  link.href = address;
  link.download = called;
  link.click();
}

/** Whether the server has no such path: an older one, or one without that dialect. */
export const missing = (error: unknown): boolean => error instanceof Failure && error.status === 404;
