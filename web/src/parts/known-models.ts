import { useQuery, type UseQueryResult } from '@tanstack/react-query';

import type { components } from '../api/schema/openai';
import { answer, api } from '../api/typed';

/** A name that can be asked. */
export type KnownModel = components['schemas']['ModelCard'];

export type Kind = 'served' | 'alias' | 'base' | 'adapter';

/** What `model` is: an alias leads to a version, a served name to a model of another name. */
export function kindOf(model: KnownModel): Kind {
  if (model.root !== model.id) return model.root.includes('@') ? 'alias' : 'served';
  return model.parent === null ? 'base' : 'adapter';
}

/** Everything that can be asked by name, the current model first. */
export function useKnownModels(refetchInterval: number | false = 15_000): UseQueryResult<KnownModel[]> {
  return useQuery({
    queryKey: ['v1', 'models'],
    queryFn: async ({ signal }) => (await answer(api.GET('/v1/models', { signal }))).data,
    refetchInterval,
  });
}
