import { words } from '../i18n/language';

const en = {
  'nav.home': 'Home',
  'nav.datasets': 'Datasets',
  'nav.runs': 'Runs',
  'nav.models': 'Models',
  'nav.playground': 'Playground',
  'nav.evaluation': 'Evaluation',
  'nav.providers': 'Providers',
  'nav.settings': 'Settings',
  'nav.skip': 'Skip to content',
  'nav.open': 'Open navigation',

  'server.gone': 'The server does not answer. Trying again…',
  'server.back': 'The server is back.',
  'loading': 'Loading…',
  'failed': 'That did not work',
  'again': 'Try again',
  'missing': 'There is no such page.',

  'theme.light': 'Light theme',
  'theme.dark': 'Dark theme',
  'language': 'Language',
};

const zh: Record<keyof typeof en, string> = {
  'nav.home': '首页',
  'nav.datasets': '数据集',
  'nav.runs': '训练任务',
  'nav.models': '模型',
  'nav.playground': '对比试用',
  'nav.evaluation': '评估',
  'nav.providers': '服务商',
  'nav.settings': '设置',
  'nav.skip': '跳到正文',
  'nav.open': '打开导航',

  'server.gone': '服务器没有响应，正在重试……',
  'server.back': '服务器已恢复。',
  'loading': '加载中……',
  'failed': '操作没有成功',
  'again': '重试',
  'missing': '没有这个页面。',

  'theme.light': '浅色主题',
  'theme.dark': '深色主题',
  'language': '语言',
};

export type Key = keyof typeof en;
export const useSay = words<Key>(en, zh);
