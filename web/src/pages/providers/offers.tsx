import { Badge, Group, Paper, SimpleGrid, Skeleton, Stack, Text, Title } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';

import { useSession } from '../../api/session';
import { Failed } from '../../parts/failed';
import { chatServices, type HeldKey, keysHeld, type Provider, PROVIDERS, tuningProviders } from './api';
import { KeyLine } from './key-line';
import { type Listed, ModelList } from './model-list';
import { dollars } from './money';
import { useSay } from './words';

interface Offer {
  ready: boolean;
  message: string | null;
  models: Listed[];
}

/** Every provider: its key, and what it offers now. */
export function Offers() {
  const say = useSay();
  const queries = useQueryClient();
  const admin = useSession().data?.admin;
  const held = useQuery({ queryKey: ['keys'], queryFn: ({ signal }) => keysHeld(signal), enabled: admin === true });
  const answering = useQuery({ queryKey: ['chat', 'models'], queryFn: ({ signal }) => chatServices(signal) });
  const tuning = useQuery({ queryKey: ['finetune', 'models'], queryFn: ({ signal }) => tuningProviders(signal) });
  const changed = async (): Promise<void> => {
    await queries.invalidateQueries({ queryKey: ['keys'] });
    void queries.invalidateQueries({ queryKey: ['chat', 'models'] });
    void queries.invalidateQueries({ queryKey: ['finetune', 'models'] });
  };
  const offer = (provider: Provider): Offer | undefined => {
    if (!provider.tunes) {
      const found = answering.data?.find((each) => each.service === provider.key);
      const price = (dear: number | undefined) => (dear === undefined ? '–' : dollars(dear));
      return found && {
        ready: found.available,
        message: found.reason,
        models: found.models.map((model) => ({
          id: model.id,
          facts: say('model.price', { prompt: price(model.prompt_usd_per_million), completion: price(model.completion_usd_per_million) }),
        })),
      };
    }
    const found = tuning.data?.find((each) => each.provider_id === provider.key);
    return found && {
      ready: found.enabled && !found.message,
      message: found.message,
      models: found.models.map((model) => ({
        id: model.id,
        facts: model.context_length ? say('model.context', { count: model.context_length.toLocaleString('en') }) : '',
      })),
    };
  };
  return (
    <Stack gap="md">
      <Text size="sm" c="dimmed">{say('keys.about')}</Text>
      {held.error && <Failed error={held.error} again={() => void held.refetch()} />}
      <SimpleGrid cols={{ base: 1, md: 2, xl: 3 }} spacing="md">
        {PROVIDERS.map((provider) => {
          const query = provider.tunes ? tuning : answering;
          return (
            <Card
              key={provider.key} provider={provider} admin={admin} offer={offer(provider)}
              held={held.data?.filter((each) => each.provider === provider.key)}
              error={query.error} again={() => void query.refetch()} changed={changed}
            />
          );
        })}
      </SimpleGrid>
    </Stack>
  );
}

interface Shown {
  provider: Provider;
  admin: boolean | undefined;
  offer: Offer | undefined;
  held: HeldKey[] | undefined;
  error: Error | null;
  again: () => void;
  changed: () => Promise<void>;
}

function Card({ provider, admin, offer, held, error, again, changed }: Shown) {
  const say = useSay();
  const missing = held?.length === 0;
  return (
    <Paper withBorder p="md" component="section" aria-label={provider.label}>
      <Stack gap="sm">
        <Group justify="space-between" gap="xs">
          <Title order={2} size="h4">{provider.label}</Title>
          {offer && (
            <Badge variant="outline" tt="none" color={offer.ready ? 'cyan' : 'gray'} c={offer.ready ? 'var(--mantine-color-anchor)' : 'dimmed'}>
              {say(offer.ready ? 'ready' : missing ? 'no.key' : 'not.ready')}
            </Badge>
          )}
        </Group>
        <Text size="sm" c="dimmed">{say(provider.tunes ? 'provider.tunes' : 'provider.answers')}</Text>
        {admin !== false ? (
          held ? <KeyLine provider={provider} held={held} changed={changed} /> : <Skeleton height={36} />
        ) : (
          <Text size="sm" c="dimmed">{say('keys.admins')}</Text>
        )}
        {error && !offer && <Failed error={error} again={again} />}
        {!offer && !error && <Skeleton height={60} />}
        {offer?.message && !missing && <Text size="sm" style={{ overflowWrap: 'anywhere' }}>{offer.message}</Text>}
        {offer && offer.models.length > 0 && <ModelList label={provider.label} models={offer.models} />}
      </Stack>
    </Paper>
  );
}
