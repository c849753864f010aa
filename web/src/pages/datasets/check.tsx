import { Alert, Group, List, Loader, ScrollArea, Stack, Table, Text, Title } from '@mantine/core';
import { Fragment } from 'react';

import { useLanguage } from '../../i18n/language';
import { Failed } from '../../parts/failed';
import { type Dataset, type Finding, type Part, type Report, useReport } from './api';
import { ReadingChoice, useReading } from './reading';
import { versionOf } from './rows';
import { useSay } from './words';

/** What a run would say of the data, before there is a run. */
export function Check({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const reading = useReading();
  const found = useReport(dataset.id, reading, versionOf(dataset));
  return (
    <Stack>
      <ReadingChoice />
      {found.isFetching && (
        <Group role="status" gap="sm"><Loader size="sm" /><Text size="sm">{say('check.working', { base: reading.base })}</Text></Group>
      )}
      {found.error && !found.isFetching && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.data && !found.isFetching && <Found report={found.data} />}
    </Stack>
  );
}

function Found({ report }: { report: Report }) {
  const say = useSay();
  const { language } = useLanguage();
  const errors = report.findings.filter((each) => each.level === 'error');
  const warnings = report.findings.filter((each) => each.level === 'warning');
  const verdict = report.ok ? (warnings.length ? 'check.warned' : 'check.good') : errors.length ? 'check.bad' : 'check.empty';
  const color = report.ok ? (warnings.length ? 'yellow' : 'green') : 'red';
  return (
    <Stack>
      <Alert color={color} title={<span className="plain">{say(verdict)}</span>} role="status">
        <Stack gap="xs">
          <Text size="sm" className="numbers">{report.line[language]}</Text>
          <Findings findings={[...errors, ...warnings]} />
        </Stack>
      </Alert>
      <div>
        <Title order={2} size="h4" mb="xs">{say('check.numbers')}</Title>
        <Numbers report={report} />
      </div>
      {report.parts.map((part) => part.lengths.length > 0 && <Lengths key={part.label} part={part} most={report.max_length} />)}
      {report.ends.length > 0 && (
        <Text size="sm">{say('check.ends')} {report.ends.map((end) => <code key={end}>{end} </code>)}</Text>
      )}
    </Stack>
  );
}

function Findings({ findings }: { findings: Finding[] }) {
  const say = useSay();
  const { language } = useLanguage();
  if (findings.length === 0) return null;
  return (
    <List size="sm" spacing={4}>
      {findings.map((each, index) => (
        <List.Item key={index} style={{ overflowWrap: 'anywhere' }}>
          <b className="numbers">{each.line ? say('check.where', { file: each.file, line: each.line }) : each.file}</b>
          {each.field && <> · <code>{each.field}</code></>}{': '}{each[language]}
        </List.Item>
      ))}
    </List>
  );
}

function Numbers({ report }: { report: Report }) {
  const say = useSay();
  const columns = ['examples', 'problems', 'duplicates', 'leaks', 'cut', 'tokens', 'learned'] as const;
  return (
    <ScrollArea type="auto">
      <Table aria-label={say('check.numbers')} className="numbers">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{say('check.part')}</Table.Th>
            {columns.map((each) => <Table.Th key={each} ta="right">{say(`check.${each}`)}</Table.Th>)}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {report.parts.map((part) => {
            const tokens = part.tokens ? `${part.tokens.median} / ${part.tokens.most}` : '–';
            const cells = [part.examples, part.bad, part.duplicates, part.leaks, part.cut, tokens, part.learned?.median ?? '–'];
            return (
              <Table.Tr key={part.label}>
                <Table.Th scope="row">{part.label}</Table.Th>
                {cells.map((cell, index) => <Table.Td key={index} ta="right">{cell.toLocaleString()}</Table.Td>)}
              </Table.Tr>
            );
          })}
        </Table.Tbody>
      </Table>
    </ScrollArea>
  );
}

function Lengths({ part, most }: { part: Part; most: number }) {
  const say = useSay();
  const longest = Math.max(...part.lengths.map((each) => each.rows));
  return (
    <section aria-label={say('check.lengths', { part: part.label })}>
      <Text fw={600} mb={4} size="sm">{say('check.lengths', { part: part.label })}</Text>
      <div className="bars numbers">
        {part.lengths.map(({ upto, rows }) => (
          <Fragment key={upto}>
            <span>{say('check.upto', { upto: upto.toLocaleString() })}{upto > most && rows > 0 ? ` (${say('check.over')})` : ''}</span>
            <span className={upto > most ? 'bar bar-over' : 'bar'} style={{ width: `${(100 * rows) / longest}%` }} />
            <span>{rows.toLocaleString()}</span>
          </Fragment>
        ))}
      </div>
    </section>
  );
}
