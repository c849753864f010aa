import { Alert, Button, Code, CopyButton, Group, Stack, Text } from '@mantine/core';
import { Component, type ErrorInfo, type ReactNode } from 'react';

import { words } from '../i18n/language';
import { Unfetched } from './fetched';

const en = {
  'away': 'This part of the page could not be fetched',
  'away.text': 'The server does not answer, or it was upgraded. What the server keeps is safe: try again, or reload the page.',
  'broken': 'This part of the page has a fault',
  'broken.text': 'The fault is in the page, not in your data; runs go on. Try again, or reload. If it stays, please report it with this text:',
  'again': 'Try again', 'reload': 'Reload the page', 'copy': 'Copy for a report', 'copied': 'Copied', 'details': 'What went wrong',
};
const zh: Record<keyof typeof en, string> = {
  'away': '页面的这一部分没有加载出来',
  'away.text': '服务器没有响应，或者刚刚升级过。服务器上保存的内容不受影响：请重试，或重新加载页面。',
  'broken': '页面的这一部分出错了',
  'broken.text': '出错的是页面，不是您的数据；训练不受影响。请重试或重新加载。如果仍然出错，请附上以下内容反馈：',
  'again': '重试', 'reload': '重新加载页面', 'copy': '复制以便反馈', 'copied': '已复制', 'details': '出错详情',
};
const useSay = words(en, zh);

interface Given {
  /** another value shows what is inside anew */
  resets: string;
  children: ReactNode;
}

interface Fault {
  error: unknown;
  where: string;
}

/** Whatever fails inside is said here, beside everything else that goes on. */
export class Boundary extends Component<Given, { fault: Fault | null }> {
  override state: { fault: Fault | null } = { fault: null };

  static getDerivedStateFromError(error: unknown) {
    return { fault: { error, where: '' } };
  }

  override componentDidCatch(error: unknown, { componentStack }: ErrorInfo) {
    this.setState({ fault: { error, where: componentStack ?? '' } });
  }

  override componentDidUpdate(before: Given) {
    if (before.resets !== this.props.resets && this.state.fault) this.again();
  }

  again = () => {
    const error = this.state.fault?.error;
    if (error instanceof Unfetched) error.forget();
    this.setState({ fault: null });
  };

  override render() {
    const { fault } = this.state;
    return fault ? <Told fault={fault} again={this.again} /> : this.props.children;
  }
}

function Told({ fault, again }: { fault: Fault; again: () => void }) {
  const say = useSay();
  const away = fault.error instanceof Unfetched;
  return (
    <Alert color={away ? 'orange' : 'red'} title={say(away ? 'away' : 'broken')} role="alert">
      <Stack gap="sm">
        <Text size="sm">{say(away ? 'away.text' : 'broken.text')}</Text>
        {!away && (
          <Code block tabIndex={0} aria-label={say('details')} style={{ maxHeight: '16rem', overflow: 'auto', whiteSpace: 'pre-wrap' }}>
            {report(fault)}
          </Code>
        )}
        <Group gap="xs">
          <Button size="xs" variant="default" onClick={again}>{say('again')}</Button>
          <Button size="xs" variant="default" onClick={() => location.reload()}>{say('reload')}</Button>
          {!away && (
            <CopyButton value={report(fault)}>
              {({ copied, copy }) => <Button size="xs" variant="default" onClick={copy}>{say(copied ? 'copied' : 'copy')}</Button>}
            </CopyButton>
          )}
        </Group>
      </Stack>
    </Alert>
  );
}

/** What helps to find the fault; nothing of what was typed, and no query of the address. */
function report({ error, where }: Fault): string {
  const said = error instanceof Error ? (error.stack ?? `${error.name}: ${error.message}`) : String(error);
  return [location.pathname, navigator.userAgent, said, where.trim()].filter(Boolean).join('\n').slice(0, 6_000);
}
