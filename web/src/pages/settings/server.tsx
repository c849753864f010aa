import { Anchor, List, Stack, Table, Text } from '@mantine/core';

import type { Session } from '../../api/session';
import { useSay } from './words';

const PAGES: [string, string][] = [
  ['/docs', 'gpt-service'],
  ['/openapi.json', 'gpt-service (OpenAPI)'],
  ['/api/chat/openapi.json', '/api/chat (OpenAPI)'],
  ['/api/finetune/openapi.json', '/api/finetune (OpenAPI)'],
];

/** What the server is, and where it describes itself. */
export function ServerFacts({ session }: { session: Session }) {
  const say = useSay();
  const facts: [string, string][] = [
    [say('server.version'), session.version],
    [say('server.address'), window.location.origin],
    ...(session.home ? [[say('server.home'), session.home] as [string, string]] : []),
    [say('server.access'), say(session.wants_token ? 'access.token' : session.open_to_network ? 'access.open' : 'access.local')],
  ];
  return (
    <Stack gap="md">
      <Table layout="fixed">
        <Table.Tbody>
          {facts.map(([name, value]) => (
            <Table.Tr key={name}>
              <Table.Th scope="row" w="9rem" fw={400}>{name}</Table.Th>
              <Table.Td style={{ overflowWrap: 'anywhere' }}>{value}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <div>
        <Text size="sm" mb={4}>{say('docs')}</Text>
        {session.wants_token ? (
          <Text size="sm" c="dimmed">{say('docs.token')}</Text>
        ) : (
          <List size="sm">
            {PAGES.map(([path, name]) => (
              <List.Item key={path}>
                <Anchor href={path} target="_blank" rel="noopener" underline="always" size="sm">{name}</Anchor>
              </List.Item>
            ))}
          </List>
        )}
      </div>
    </Stack>
  );
}
