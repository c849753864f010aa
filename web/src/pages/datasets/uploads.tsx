import { Alert, Button, Card, Group, List, Progress, Stack, Text } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import { useLocation } from 'wouter';

import { Failure } from '../../api/client';
import { useLanguage } from '../../i18n/language';
import { Drop } from '../../parts/drop';
import { again, drop, onArrival, type Sending, take, useSending } from './sending';
import { badRows } from './upload';
import { useSay } from './words';

/** Where files are dropped, and how far each is. */
export function Uploads() {
  const say = useSay();
  const list = useSending();
  const queries = useQueryClient();
  const [, go] = useLocation();
  useEffect(() => onArrival((kept, last) => {
    if (last) go(`/datasets/${kept.id}?tab=check`); // what is wrong with it is said there
    void queries.invalidateQueries({ queryKey: ['datasets'] });
  }), [go, queries]);
  return (
    <Stack gap="sm">
      <Drop
        title={say('drop.title')} hint={say('drop.hint')} choose={say('drop.choose')}
        accept=".json,.jsonl,.ndjson,.csv" take={take}
      />
      {list.map((each) => each.state === 'failed'
        ? <Refused key={each.key} sending={each} again={() => again(each.key)} dismiss={() => drop(each.key)} />
        : <OnItsWay key={each.key} sending={each} cancel={() => drop(each.key)} />)}
    </Stack>
  );
}

function OnItsWay({ sending, cancel }: { sending: Sending; cancel: () => void }) {
  const say = useSay();
  const { file, sent, state } = sending;
  const share = file.size ? Math.min(100, Math.floor((sent / file.size) * 100)) : 100;
  const text = state === 'waiting'
    ? say('upload.waiting', { name: file.name })
    : share < 100 ? say('upload.sending', { name: file.name, share }) : say('upload.reading', { name: file.name });
  return (
    <Card withBorder padding="sm">
      <Group justify="space-between" wrap="nowrap" mb={6}>
        <Text size="sm" className="numbers" style={{ overflowWrap: 'anywhere' }} role="status">{text}</Text>
        <Button size="xs" variant="default" onClick={cancel} style={{ flexShrink: 0 }}>{say('upload.cancel')}</Button>
      </Group>
      <Progress value={share} animated={share === 100} aria-label={text} />
    </Card>
  );
}

function Refused({ sending, again, dismiss }: { sending: Sending; again: () => void; dismiss: () => void }) {
  const say = useSay();
  const { language } = useLanguage();
  const { error, file } = sending;
  const rows = badRows(error);
  const gone = !(error instanceof Failure) || error.status === 0;
  const title = say(gone ? 'upload.failed' : 'upload.refused', { name: file.name });
  return (
    <Alert color="red" role="alert" title={<span style={{ overflowWrap: 'anywhere' }}>{title}</span>}>
      <Stack gap="xs">
        {rows.length > 0 ? (
          <>
            <Text size="sm">{say('upload.rows')}</Text>
            <List size="sm" spacing={4}>
              {rows.map((row, index) => (
                <List.Item key={index} style={{ overflowWrap: 'anywhere' }}>
                  <b className="numbers">{row.line ? say('upload.line', { line: row.line }) : say('upload.file')}</b>
                  {row.field && <> · <code>{row.field}</code></>}{': '}{language === 'zh' ? row.zh : row.en}
                </List.Item>
              ))}
            </List>
          </>
        ) : (
          <Text size="sm" className="said">{gone ? say('upload.gone') : (error as Failure).message}</Text>
        )}
        <Group gap="xs">
          <Button size="xs" variant="default" onClick={again}>{say('upload.again')}</Button>
          <Button size="xs" variant="default" onClick={dismiss}>{say('upload.dismiss')}</Button>
        </Group>
      </Stack>
    </Alert>
  );
}
