import { Button, Group, Table, Text } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';

import { answer, api } from '../../api/typed';
import { useLanguage } from '../../i18n/language';
import { Failed } from '../../parts/failed';
import { type Samples, samples as query } from './api';
import { type Key, useSay } from './words';

const ROLES: Record<string, Key> = {
  train: 'data.role.train', validation: 'data.role.validation', test: 'data.role.test', control: 'data.role.control',
  general: 'data.role.general',
};

/** Puts the sample data into place and shows some of it. */
export function DataStep({ samples }: { samples: Samples }) {
  const say = useSay();
  const { language } = useLanguage();
  const client = useQueryClient();
  const install = useMutation({
    mutationFn: () => answer(api.POST('/samples')),
    onSuccess: (found) => client.setQueryData(query.queryKey, found),
  });
  const shown = samples.examples.filter((each) => each.language === language);
  const count = samples.files.find((file) => file.role === 'train')?.rows ?? 0;
  return (
    <>
      <Text c="dimmed">{say('data.why')}</Text>
      {install.error && <Failed error={install.error} />}
      {!samples.installed && (
        <Button w="fit-content" loading={install.isPending} onClick={() => install.mutate()}>{say('data.do')}</Button>
      )}
      {samples.installed && (
        <>
          <Text size="sm">{say('data.count', { count, shown: shown.length })}</Text>
          <Table withTableBorder verticalSpacing={4}>
            <Table.Thead>
              <Table.Tr><Table.Th scope="col">{say('data.question')}</Table.Th><Table.Th scope="col">{say('data.answer')}</Table.Th></Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {shown.map((each) => (
                <Table.Tr key={each.question}><Table.Td>{each.question}</Table.Td><Table.Td>{each.answer}</Table.Td></Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
          <Group gap="md" className="numbers" role="group" aria-label={say('data.files')}>
            {samples.files.map((file) => {
              const role = ROLES[file.role];
              return (
                <Text key={file.dataset_path} size="sm" c="dimmed" title={file.dataset_path}>
                  {say('data.rows', { role: role ? say(role) : file.role, count: file.rows })}
                </Text>
              );
            })}
          </Group>
        </>
      )}
    </>
  );
}
