import { Anchor, Badge, Button, Center, Group, Loader, ScrollArea, Stack, Table, Text, Title } from '@mantine/core';
import type { ReactNode } from 'react';
import { Link } from 'wouter';

import { bytes } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { AliasList } from './aliases';
import { type Adapter, type Base, type Library, load, makeCurrent, missing, unload, useChange, useHosted, useLibrary } from './api';
import { toModel, toTry } from './links';
import { useSay } from './words';

/** Everything that answers here, and what it is made of. */
export function Overview() {
  const say = useSay();
  const found = useLibrary();
  return (
    <Stack maw={1400} gap="lg">
      <div>
        <Title order={1} size="h2">{say('title')}</Title>
        <Text className="quiet">{say('intro')}</Text>
      </div>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Center p="xl"><Loader aria-label={say('loading')} /></Center>}
      {found.data && <All library={found.data} />}
    </Stack>
  );
}

function All({ library }: { library: Library }) {
  const say = useSay();
  const loading = useChange(load);
  const names = new Set(library.loaded.map((each) => each.name));
  return (
    <>
      <LoadedNow library={library} />
      {loading.isPending && (
        <Group gap="sm" role="status"><Loader size="sm" /><Text size="sm">{say('loads', { name: loading.variables.name })}</Text></Group>
      )}
      {loading.error && <Failed error={loading.error} again={() => loading.mutate(loading.variables)} />}
      <Adapters adapters={library.adapters} loaded={names} load={loading.mutate} busy={loading.isPending} />
      <AliasList adapters={library.adapters} />
      <Bases bases={library.bases} loaded={names} load={loading.mutate} busy={loading.isPending} />
      <AtProviders />
    </>
  );
}

export function Section({ title, text, children }: { title: string; text?: string; children: ReactNode }) {
  return (
    <section aria-label={title}>
      <Title order={2} size="h3">{title}</Title>
      {text && <Text size="sm" className="quiet" mb="xs" maw={820}>{text}</Text>}
      {children}
    </section>
  );
}

function LoadedNow({ library }: { library: Library }) {
  const say = useSay();
  const unloading = useChange(unload);
  const switching = useChange(makeCurrent);
  const failed = [unloading, switching].find((each) => each.error);
  return (
    <Section title={say('loaded')} text={say('loaded.text')}>
      {failed && <Failed error={failed.error} again={() => failed.variables && failed.mutate(failed.variables)} />}
      <Stack gap={0}>
        {library.loaded.map((each) => (
          <Group key={each.name} justify="space-between" py={6} style={{ borderBottom: '1px solid var(--mantine-color-default-border)' }}>
            <Group gap="xs" style={{ flex: '1 1 14rem', minWidth: 0 }}>
              <Text fw={600} style={{ overflowWrap: 'anywhere' }}>{each.name}</Text>
              {each.is_current && <Badge tt="none" color="cyan">{say('current')}</Badge>}
              {each.version && <Badge tt="none" variant="default">{each.version}</Badge>}
              {each.lora_adapter && <Text size="sm" className="quiet">{each.base_model}</Text>}
            </Group>
            <Group gap="xs">
              <Button component={Link} href={toTry(each.name)} size="xs" variant="light" aria-label={say('try.one', { name: each.name })}>{say('try')}</Button>
              {!each.is_current && (
                <Button
                  size="xs" variant="default" loading={switching.isPending && switching.variables === each.name}
                  aria-label={say('current.make.one', { name: each.name })} onClick={() => switching.mutate(each.name)}
                >{say('current.make')}</Button>
              )}
              <Button
                size="xs" variant="default" loading={unloading.isPending && unloading.variables === each.name}
                aria-label={say('unload.one', { name: each.name })} onClick={() => unloading.mutate(each.name)}
              >{say('unload')}</Button>
            </Group>
          </Group>
        ))}
      </Stack>
    </Section>
  );
}

interface Listed<T> {
  loaded: Set<string>;
  load: (model: T) => void;
  busy: boolean;
}

function Adapters({ adapters, loaded, load, busy }: { adapters: Adapter[] } & Listed<Adapter>) {
  const say = useSay();
  if (adapters.length === 0) {
    return (
      <Section title={say('adapters')}>
        <Group><Text>{say('adapters.none')}</Text><Button component={Link} href="/runs/new" size="xs">{say('adapters.begin')}</Button></Group>
      </Section>
    );
  }
  return (
    <Section title={say('adapters')}>
      <ScrollArea type="auto">
        <Table aria-label={say('adapters')} verticalSpacing="xs">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{say('name')}</Table.Th>
              <Table.Th visibleFrom="md">{say('base')}</Table.Th>
              <Table.Th ta="right" visibleFrom="lg">{say('rank')}</Table.Th>
              <Table.Th ta="right" visibleFrom="lg">{say('size')}</Table.Th>
              <Table.Th visibleFrom="sm">{say('made')}</Table.Th>
              <Table.Th ta="right" visibleFrom="lg">{say('used')}</Table.Th>
              <Table.Th>{say('actions')}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {adapters.map((each) => (
              <Table.Tr key={each.name}>
                <Table.Td>
                  <Named name={each.name} />
                  <Group gap={4} mt={2}>
                    {each.version && <Badge tt="none" variant="default">{each.version}</Badge>}
                    {each.aliases.map((alias) => <Badge key={alias} tt="none" color="cyan">{alias}</Badge>)}
                  </Group>
                </Table.Td>
                <Table.Td visibleFrom="md" style={{ overflowWrap: 'anywhere' }}>{each.base_model}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="lg">{each.rank}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="lg">{bytes(each.size_bytes)}</Table.Td>
                <Table.Td visibleFrom="sm"><When at={each.created_at} /></Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="lg"><Used count={each.usage_count} /></Table.Td>
                <Table.Td><Actions model={each} loaded={loaded} load={load} busy={busy} /></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </ScrollArea>
    </Section>
  );
}

function Bases({ bases, loaded, load, busy }: { bases: Base[] } & Listed<Base>) {
  const say = useSay();
  return (
    <Section title={say('bases')}>
      <ScrollArea type="auto">
        <Table aria-label={say('bases')} verticalSpacing="xs">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{say('name')}</Table.Th>
              <Table.Th visibleFrom="md">{say('architecture')}</Table.Th>
              <Table.Th ta="right" visibleFrom="sm">{say('context')}</Table.Th>
              <Table.Th ta="right" visibleFrom="sm">{say('size')}</Table.Th>
              <Table.Th ta="right" visibleFrom="lg">{say('used')}</Table.Th>
              <Table.Th>{say('actions')}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {bases.map((each) => (
              <Table.Tr key={each.name}>
                <Table.Td><Named name={each.name} /></Table.Td>
                <Table.Td visibleFrom="md">{each.architecture}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="sm">{say('tokens', { count: each.context_length.toLocaleString() })}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="sm">{bytes(each.size_bytes)}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="lg"><Used count={each.usage_count} /></Table.Td>
                <Table.Td><Actions model={each} loaded={loaded} load={load} busy={busy} /></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </ScrollArea>
    </Section>
  );
}

function Actions<T extends Base | Adapter>({ model, loaded, load, busy }: { model: T } & Listed<T>) {
  const say = useSay();
  const { name } = model;
  return (
    <Group gap="xs" wrap="nowrap">
      <Button component={Link} href={toTry(name, 'base_model' in model ? model.base_model : undefined)} size="xs" variant="light" aria-label={say('try.one', { name })}>{say('try')}</Button>
      {!loaded.has(name) && (
        <Button size="xs" variant="default" disabled={busy} onClick={() => load(model)} aria-label={say('load.one', { name })} visibleFrom="sm">
          {say('load')}
        </Button>
      )}
    </Group>
  );
}

function Named({ name }: { name: string }) {
  return <Anchor component={Link} href={toModel(name)} fw={600} underline="always" style={{ overflowWrap: 'anywhere' }}>{name}</Anchor>;
}

export function Used({ count }: { count: number }) {
  const say = useSay();
  return <>{count === 0 ? say('used.never') : say('used.times', { count: count.toLocaleString() })}</>;
}

function AtProviders() {
  const say = useSay();
  const found = useHosted();
  if (found.error) return missing(found.error) ? null : <Failed error={found.error} again={() => void found.refetch()} />;
  if (!found.data?.length) return null;
  return (
    <Section title={say('hosted')} text={say('hosted.text')}>
      <Table aria-label={say('hosted')} verticalSpacing="xs">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{say('name')}</Table.Th>
            <Table.Th>{say('hosted.provider')}</Table.Th>
            <Table.Th visibleFrom="sm">{say('base')}</Table.Th>
            <Table.Th visibleFrom="sm">{say('made')}</Table.Th>
            <Table.Th>{say('actions')}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {found.data.map((each) => (
            <Table.Tr key={each.id}>
              <Table.Td style={{ overflowWrap: 'anywhere' }}><Text fw={600}>{each.name}</Text><code>hosted/{each.id}</code></Table.Td>
              <Table.Td>{each.provider}</Table.Td>
              <Table.Td visibleFrom="sm" style={{ overflowWrap: 'anywhere' }}>{each.model_name}</Table.Td>
              <Table.Td visibleFrom="sm"><When at={each.created_at} /></Table.Td>
              <Table.Td>
                <Group gap="xs">
                  <Button component={Link} href={toTry(`hosted/${each.id}`)} size="xs" variant="light" aria-label={say('try.one', { name: each.name })}>{say('try')}</Button>
                  <Button component={Link} href="/providers" size="xs" variant="default">{say('hosted.open')}</Button>
                </Group>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Section>
  );
}
