import { useQuery, type UseQueryResult } from '@tanstack/react-query';

import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Schemas = components['schemas'];
/** A kept dataset, an uploaded file or a sample file. */
export type Dataset = Schemas['DatasetShown'];
export type Message = Schemas['RowTurn'];
export type Row = Schemas['DatasetRow'];
export type Part = Schemas['Part'];
export type Finding = Schemas['Finding'];
export type Report = Schemas['DataReport'];
export type Preview = Schemas['MaskedRow'];

/** How a base model reads the data: its template, and where it cuts. */
export interface Reading {
  base: string;
  most: number | null;
}

const asked = ({ base, most }: Reading) => ({ base_model: base, ...(most ? { max_length: most } : {}) });

export const WINDOW = 100;

/** Everything there is to train on; looked at again now and then, so that two tabs agree. */
export function useDatasets(): UseQueryResult<Dataset[]> {
  return useQuery({
    queryKey: ['datasets'],
    queryFn: async ({ signal }) => (await answer(api.GET('/datasets', { signal }))).datasets,
    refetchInterval: 10_000,
  });
}

export function useDataset(id: string): UseQueryResult<Dataset> {
  return useQuery({
    queryKey: ['datasets', id],
    queryFn: ({ signal }) => answer(api.GET('/datasets/{dataset_id}', { params: { path: { dataset_id: id } }, signal })),
  });
}

/** Rows `number * WINDOW` and on. */
export const windowQuery = (id: string, part: string, number: number, version: string) => ({
  queryKey: ['datasets', id, 'rows', part, number, version],
  queryFn: ({ signal }: { signal: AbortSignal }) => answer(api.GET('/datasets/{dataset_id}/rows', {
    params: { path: { dataset_id: id }, query: { part, offset: number * WINDOW, limit: WINDOW } }, signal,
  })),
  staleTime: Infinity,
});

export function useReport(id: string, reading: Reading, version: string): UseQueryResult<Report> {
  return useQuery({
    queryKey: ['datasets', id, 'check', reading, version],
    queryFn: ({ signal }) => answer(api.GET('/datasets/{dataset_id}/check', {
      params: { path: { dataset_id: id }, query: asked(reading) }, signal,
    })),
    staleTime: Infinity,
    refetchOnWindowFocus: false,
  });
}

export const SHOWN = 5;

export function usePreviews(
  id: string, reading: Reading, part: string, page: number, version: string,
): UseQueryResult<Schemas['MaskPreview']> {
  return useQuery({
    queryKey: ['datasets', id, 'mask', reading, part, page, version],
    queryFn: ({ signal }) => answer(api.GET('/datasets/{dataset_id}/mask', {
      params: { path: { dataset_id: id }, query: { ...asked(reading), part, offset: page * SHOWN, limit: SHOWN } }, signal,
    })),
    staleTime: Infinity,
    refetchOnWindowFocus: false,
    placeholderData: (before) => before, // nothing jumps while the next ones come
  });
}

export const remove = (id: string) => answer(api.DELETE('/datasets/{dataset_id}', { params: { path: { dataset_id: id } } }));

/** Shares of the parts that sum to 1, and what decides which row goes where. */
export type Shares = Schemas['SplitRequest'];
/** `duplicates` is told where a dataset of its own was made. */
export type Made = Schemas['DatasetSplit'] & Partial<Schemas['DatasetProcessed']>;

export const splitInPlace = (id: string, body: Shares): Promise<Made> =>
  answer(api.POST('/datasets/{dataset_id}/split', { params: { path: { dataset_id: id } }, body }));
export const splitAs = (id: string, name: string, shares: Shares): Promise<Made> =>
  answer(api.POST('/datasets/{dataset_id}/process', { params: { path: { dataset_id: id } }, body: { ...shares, name } }));
