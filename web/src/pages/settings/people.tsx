import { Stack, Text } from '@mantine/core';

import { Command } from '../../parts/command';
import { type Key, useSay } from './words';

const VERBS: { about: Key; verb: string }[] = [
  { about: 'people.add', verb: 'users add NAME --admin' },
  { about: 'people.list', verb: 'users list' },
  { about: 'people.passwd', verb: 'users passwd NAME' },
  { about: 'people.disable', verb: 'users disable NAME' },
  { about: 'keys.create', verb: 'keys create --user NAME --label "what for"' },
  { about: 'keys.list', verb: 'keys list' },
  { about: 'keys.revoke', verb: 'keys revoke ID' },
];

/** Users and keys are made on the machine itself: no request can make somebody an admin. */
export function People({ home }: { home: string | null }) {
  const say = useSay();
  const where = home ? ` --home ${quoted(home)}` : '';
  return (
    <Stack gap="sm">
      <Text size="sm" c="dimmed">{say('people.how')}</Text>
      {VERBS.map(({ about, verb }) => (
        <div key={about}>
          <Text size="sm" mb={4}>{say(about)}</Text>
          <Command line={`tunesmith ${verb}${where}`} />
        </div>
      ))}
    </Stack>
  );
}

/** As one word of a shell. */
const quoted = (path: string): string => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);
