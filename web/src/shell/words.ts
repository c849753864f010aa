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
  'language': 'Language: {other}',

  'login': 'Log in',
  'login.wanted': 'This server wants to know who you are.',
  'login.ended': 'Your login has ended. Nothing on this page is lost: log in again to go on.',
  'login.name': 'User name',
  'login.password': 'Password',
  'login.key': 'API key',
  'login.key.how': 'Made with: tunesmith keys create --user NAME',
  'login.by.key': 'Use an API key instead',
  'login.by.password': 'Use a password instead',
  'login.show': 'Show what is typed',
  'login.later': 'Later',
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
  'language': '语言：{other}',

  'login': '登录',
  'login.wanted': '此服务器需要知道您是谁。',
  'login.ended': '登录已过期。此页面上的内容不会丢失：重新登录即可继续。',
  'login.name': '用户名',
  'login.password': '密码',
  'login.key': 'API 密钥',
  'login.key.how': '用此命令创建：tunesmith keys create --user 用户名',
  'login.by.key': '改用 API 密钥',
  'login.by.password': '改用密码',
  'login.show': '显示输入的内容',
  'login.later': '以后再说',
};

export type Key = keyof typeof en;
export const useSay = words<Key>(en, zh);
