import { useMutation, useQuery, useQueryClient, type UseQueryResult } from '@tanstack/react-query';

import { call, carries, Failure, get, post, send } from '../../api/client';

interface Noted {
  name: string;
  size_bytes: number;
  description: string;
  usage_count: number;
  last_used: string | null;
}

export interface Base extends Noted {
  architecture: string;
  context_length: number;
}

export interface Adapter extends Noted {
  base_model: string;
  rank: number;
  created_at: string;
  version: string | null;
  aliases: string[];
  run_id: string | null;
  editable: boolean;
}

export interface Loaded {
  name: string;
  base_model: string;
  lora_adapter: string | null;
  version: string | null;
  is_current: boolean;
}

export interface Library {
  bases: Base[];
  adapters: Adapter[];
  loaded: Loaded[];
}

export interface Alias {
  name: string;
  version: string;
  lora_adapter: string;
  base_model: string;
  moved_at: string;
}

export interface Move {
  serial: number;
  kind: string;
  version: string | null;
  moved_at: string;
  moved_by?: string;
}

/** A job that was trained at a provider. */
export interface Hosted {
  id: string;
  name: string;
  provider: string;
  status: string;
  model_name: string;
  created_at: string | null;
}

const OFTEN = 10_000; // ms: two tabs agree

export function useLibrary(): UseQueryResult<Library> {
  return useQuery({
    queryKey: ['library'], queryFn: ({ signal }) => get<Library>('/library', signal), refetchInterval: OFTEN,
  });
}

export function useAliases(): UseQueryResult<Alias[]> {
  return useQuery({
    queryKey: ['aliases'],
    queryFn: async ({ signal }) => (await get<{ aliases: Alias[] }>('/aliases', signal)).aliases,
    refetchInterval: OFTEN,
  });
}

export function useMoves(name: string, enabled: boolean): UseQueryResult<Move[]> {
  return useQuery({
    queryKey: ['aliases', name],
    queryFn: async ({ signal }) =>
      (await get<{ history: Move[] }>(`/aliases/${encodeURIComponent(name)}`, signal)).history,
    enabled,
  });
}

/** What was trained at a provider, and is asked for as `hosted/<id>`. */
export function useHosted(): UseQueryResult<Hosted[]> {
  return useQuery({
    queryKey: ['finetune', 'jobs', 'hosted'],
    queryFn: async ({ signal }) => {
      const { jobs } = await get<{ jobs: Hosted[] }>('/api/finetune/jobs', signal);
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

const named = (name: string): string => encodeURIComponent(name);

export const load = (model: Base | Adapter): Promise<unknown> => post('/models/load', 'base_model' in model
  ? { model_name: model.name, model_path: model.base_model, lora_adapter: model.name }
  : { model_name: model.name });
export const unload = (name: string): Promise<unknown> => post(`/models/unload?model_name=${named(name)}`);
export const makeCurrent = (name: string): Promise<unknown> => post(`/models/switch?model_name=${named(name)}`);
export const describe = (name: string, description: string): Promise<unknown> =>
  call('PATCH', '/library', { name, description });
export const rollBack = (alias: string): Promise<unknown> => post(`/aliases/${named(alias)}/rollback`);
export const unalias = (alias: string): Promise<unknown> => call('DELETE', `/aliases/${named(alias)}`);
export const removeModel = (name: string): Promise<unknown> =>
  call('DELETE', `/v1/models/${name.split('/').map(named).join('/')}`);

export interface Promotion {
  alias: string;
  adapter: string;
  test: string | null;
  force: boolean;
}

export const promote = ({ alias, adapter, test, force }: Promotion): Promise<unknown> =>
  post(`/aliases/${named(alias)}`, { adapter, force, ...(test ? { test } : {}) });

/** Have the browser keep the adapter as a zip. */
export async function download(name: string): Promise<void> {
  const path = `/library/download?name=${named(name)}`;
  if (!carries()) {
    follow(path);
    return;
  }
  // a link carries no token
  const response = await send(path);
  const address = URL.createObjectURL(await response.blob());
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
